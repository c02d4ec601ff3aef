// Sliders between base and tuned model, and the filter of the gallery. Without it, all views stand side by side.
document.documentElement.classList.add("js");
for (const input of document.querySelectorAll(".slider input")) {
  const stack = input.closest(".slider").querySelector(".stack");
  for (const image of input.closest(".views").querySelectorAll(".of-model img")) stack.append(image.cloneNode());
  const show = () => stack.style.setProperty("--cut", input.value + "%");
  input.addEventListener("input", show);
  stack.addEventListener("pointermove", (event) => {
    if (event.pointerType === "mouse" && event.buttons !== 1) return;
    const box = stack.getBoundingClientRect();
    input.value = Math.round((100 * (event.clientX - box.left)) / box.width);
    show();
  });
  show();
}
const selects = document.querySelectorAll(".filter select");
const filter = () => {
  for (const figure of document.querySelectorAll("figure[data-category]")) {
    figure.hidden = [...selects].some((select) => select.value && figure.dataset[select.name] !== select.value);
  }
};
for (const select of selects) select.addEventListener("change", filter);
