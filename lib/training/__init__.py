"""Cohorts of networks trained in lock-step."""
