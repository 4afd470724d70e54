// The view library: preact's elements, written as templates. Everything that is shown passes through here as text:
// a child that is a string becomes a text node, never markup.
import { h, render, Component } from "/console/vendor/preact/preact.mjs";
import htm from "/console/vendor/htm/htm.mjs";

export const html = htm.bind(h);
export { render, Component };
