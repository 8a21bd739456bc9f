for (const range of document.querySelectorAll(".compare input")) {
  range.addEventListener("input", () => range.parentElement.style.setProperty("--cut", `${range.value}%`));
}
