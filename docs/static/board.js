// The scoreboard's rows that agree with every choice are shown, and counted.
const choices = [...document.querySelectorAll(".filters select")];
function show() {
  let shown = 0;
  for (const row of document.querySelectorAll(".board tbody tr")) {
    row.hidden = choices.some((c) => c.value && row.dataset[c.name] !== c.value);
    shown += !row.hidden;
  }
  document.querySelector(".filters output").textContent = `${shown} claims`;
}
for (const choice of choices) choice.addEventListener("change", show);
show();
