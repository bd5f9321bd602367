// The frame of the page: what the address after # shows, navigation, appearance, the token.
import { html, render, useEffect, useRef, useState } from "./html.js";
import { ThemeSwitch } from "./appearance.js";
import { refused, setToken } from "./service.js";
import { Upload } from "./upload.js";
import { Job } from "./job.js";
import { Again } from "./again.js";
import { Compare } from "./compare.js";
import { History } from "./history.js";
import { Live } from "./live.js";
import { Operator } from "./operator.js";

const PLACES = [
  ["", "New", Upload],
  ["history", "History", History],
  ["live", "Live", Live],
  ["operator", "Operator", Operator],
];
const OTHERS = { job: Job, again: Again, compare: Compare };

const address = () => location.hash.replace(/^#\/?/, "").split("/").map(decodeURIComponent);

function Token({ done }) {
  const field = useRef(null);
  useEffect(() => field.current.focus(), []);
  return html`<form class="card narrow" onSubmit=${(event) => {
    event.preventDefault();
    setToken(field.current.value);
    done();
  }}>
    <h1>Token</h1>
    <p>This service asks for a token. It is kept until this window is closed.</p>
    <label for="token">Bearer token</label>
    <div class="row"><input id="token" ref=${field} type="password" autocomplete="off" required /><button class="main">Use it</button></div>
  </form>`;
}

function App() {
  const [[place, ...rest], setAddress] = useState(address()),
    [asking, setAsking] = useState(false),
    [turn, setTurn] = useState(0);
  const main = useRef(null);
  useEffect(() => {
    const go = () => {
      setAddress(address());
      window.scrollTo(0, 0);
      main.current?.focus({ preventScroll: true });
    };
    const ask = () => setAsking(true);
    addEventListener("hashchange", go);
    refused.addEventListener("token", ask);
    return () => {
      removeEventListener("hashchange", go);
      refused.removeEventListener("token", ask);
    };
  }, []);
  const known = PLACES.find(([name]) => name === place),
    Shown = known?.[2] ?? OTHERS[place];
  useEffect(() => {
    document.title = `${known?.[1] ?? { job: "Scan", compare: "Compare" }[place] ?? "?"} - ptycho_ray`;
  }, [place]);
  return html`
    <a class="skip" href="#main" onClick=${(event) => {
      event.preventDefault();
      main.current.focus();
    }}>Skip to the content</a>
    <header class="top">
      <a class="brand" href="#/">ptycho_ray</a>
      <nav aria-label="Places">${PLACES.map(
        ([name, title]) => html`
        <a href=${`#/${name}`} aria-current=${name === place ? "page" : undefined}>${title}</a>`,
      )}
        <a href="docs">Interface</a></nav>
      <${ThemeSwitch} />
    </header>
    <main id="main" ref=${main} tabindex="-1">
      ${
        asking
          ? html`<${Token} done=${() => {
              setAsking(false);
              setTurn(turn + 1);
            }} />`
          : Shown
            ? html`<${Shown} key=${`${place} ${rest.join(" ")} ${turn}`} words=${rest} />`
            : html`<section class="card"><h1>Nothing here</h1><p>There is no such place on this page. <a href="#/">Begin a scan</a>.</p></section>`
      }
    </main>`;
}

render(html`<${App} />`, document.getElementById("app"));
