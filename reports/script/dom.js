// Elements of the page that the script makes: their texts are set as text, so that nothing of a run becomes markup.

const SVG = "http://www.w3.org/2000/svg";

function make(name, attributes = {}, ...children) {
  return dress(document.createElement(name), attributes, children);
}

function makeSvg(name, attributes = {}, ...children) {
  return dress(document.createElementNS(SVG, name), attributes, children);
}

// `style` is an object of properties and variables: set by the object model, which the policy allows.
function dress(element, { style = {}, ...attributes }, children) {
  Object.entries(attributes).forEach(([key, value]) => element.setAttribute(key, value));
  Object.entries(style).forEach(([key, value]) => element.style.setProperty(key, value));
  element.append(...children);
  return element;
}

function button(text, act, attributes = {}) {
  const control = make("button", { type: "button", ...attributes }, text);
  control.addEventListener("click", act);
  return control;
}

// The value of one of the page's colours, for a canvas.
function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue("--" + name).trim();
}
