// Keeps the page up to date: one stream of events for the connection that is shown,
// and a part of the list whenever the stream says that the list has changed. All
// text gets onto the page as text. Times are those of the program's machine; ahead
// is how far its clock is ahead of this one.
(() => {
	"use strict";
	const $ = (id) => document.getElementById(id);
	const make = (tag, cls, text) => {
		const node = document.createElement(tag);
		if (cls) node.className = cls;
		if (text !== undefined) node.textContent = text;
		return node;
	};
	const states = ["Offline", "Connecting", "Connected", "Refreshing", "Paused", "Closed"];
	const asked = new URLSearchParams(location.search);
	let text = asked.get("q") || "", filter = asked.get("state") || "", key = asked.get("conn") || "";
	let ahead = 0, detail = null;
	const clock = (now) => { ahead = now - Date.now(); };

	// The stream.

	let source = null, again = 0, heard = 0, lostAt = null;
	function open() {
		close();
		heard = Date.now();
		source = new EventSource("events?conn=" + encodeURIComponent(key));
		const on = (name, f) => source.addEventListener(name, (e) => {
			heard = Date.now();
			link(true);
			f(JSON.parse(e.data));
		});
		on("hello", (d) => {
			clock(d.now);
			if (d.edition !== document.documentElement.dataset.edition) location.reload(); // another program answers now
			list.load();
		});
		on("reset", (d) => {
			history.reset(d.steps, d.earlier);
			show(d.detail);
		});
		on("step", (s) => history.add(s, true));
		on("detail", show);
		on("none", absent);
		on("list", () => list.load());
		on("beat", (d) => clock(d.now));
		source.onerror = () => {
			link(false);
			if (source && source.readyState === EventSource.CLOSED) { // it was refused, and does not come back by itself
				clearTimeout(again);
				again = setTimeout(open, 3000);
			}
		};
	}
	function close() {
		clearTimeout(again);
		if (source) source.close();
		source = null;
	}
	function link(live) {
		if (live) lostAt = null; else lostAt = lostAt || new Date();
		const said = live ? "Live" : "Disconnected since " + lostAt.toLocaleTimeString() + "; trying again";
		if ($("link").textContent === said) return;
		$("link").textContent = said;
		$("link").className = live ? "live" : "lost";
		document.body.classList.toggle("lost-link", !live);
	}
	setInterval(() => {
		if (source && Date.now() - heard > 40000) { // not even a beat: the link is dead, and nobody noticed
			link(false);
			open();
		}
	}, 5000);
	document.addEventListener("visibilitychange", () => { // who is not seen needs no stream
		if (document.hidden) close(); else if (!source) open();
	});

	// The connection that is shown.

	function show(d) {
		detail = d;
		if (key !== d.key) {
			key = d.key;
			list.mark();
		}
		$("connection").classList.remove("empty");
		$("absent").textContent = "";
		bdi($("key"), d.key);
		document.title = d.key + " · chatconn";
		$("user").replaceChildren();
		if (d.user) {
			$("user").textContent = "user ";
			bdi($("user"), d.user, true);
		}
		$("state").textContent = d.state;
		$("state").className = "pill " + d.state;
		$("download").href = "recording?conn=" + encodeURIComponent(d.key);
		$("error").hidden = !d.error;
		$("errortext").textContent = d.error;
		for (const id of ["attempts", "reconnects", "loads", "waiting", "replays", "unreplayable", "lateDrops", "missed", "bugs"]) {
			const cell = $("c-" + id);
			if (cell.textContent !== String(d[id])) cell.textContent = d[id];
			cell.parentNode.classList.toggle("bad", (id === "bugs" || id === "missed") && d[id] > 0);
		}
		if (!history.length) picture.light(d.state);
		status();
	}
	function bdi(parent, value, add) {
		const node = make("bdi", "", value);
		if (add) parent.append(node); else parent.replaceChildren(node);
	}
	function absent(d) {
		detail = null;
		$("connection").classList.add("empty");
		bdi($("key"), d.key);
		$("absent").textContent = d.key ? "This connection is not there, or not any more." : "Connections appear here as the program makes them.";
		$("status").textContent = "";
		history.reset([], 0);
		picture.light("");
	}
	function status() {
		const d = detail;
		if (!d) return;
		const now = Date.now() + ahead;
		let said = "";
		if (d.retryAt) said = "attempt " + d.attempt + " in " + (Math.max(0, d.retryAt - now) / 1000).toFixed(1) + " s";
		else if (d.connectedAt) said = "connected for " + lasting(now - d.connectedAt);
		else if (d.attempt) said = "attempt " + d.attempt + " runs";
		if ($("status").textContent !== said) $("status").textContent = said;
		$("status").className = d.retryAt ? "due" : "";
	}
	setInterval(status, 100);
	function lasting(ms) {
		const s = Math.max(0, Math.round(ms / 1000));
		if (s < 60) return s + " s";
		if (s < 3600) return Math.floor(s / 60) + " min " + (s % 60) + " s";
		return Math.floor(s / 3600) + " h " + (Math.floor(s / 60) % 60) + " min";
	}

	// The picture.

	const picture = (() => {
		const svg = $("picture").querySelector("svg");
		const boxes = new Map(), arrows = new Map(), labels = new Map();
		for (const g of svg.querySelectorAll("[data-state]")) boxes.set(g.dataset.state, g);
		for (const g of svg.querySelectorAll(".arrow[data-from]")) arrows.set(g.dataset.from + " " + g.dataset.to, g);
		for (const t of svg.querySelectorAll("text[data-event]")) labels.set(t.dataset.from + " " + t.dataset.event, t);
		const first = svg.querySelector("[data-state]");
		let lit = [];
		function light(state) {
			for (const [name, box] of boxes) box.classList.toggle("current", name === state);
			const frame = $("picture"), box = boxes.get(state);
			if (!box || frame.scrollWidth <= frame.clientWidth) return;
			const at = box.getBoundingClientRect(), seen = frame.getBoundingClientRect();
			if (at.left < seen.left || at.right > seen.right) frame.scrollLeft += (at.left + at.right - seen.left - seen.right) / 2;
		}
		function trace(s) {
			for (const node of lit) node.classList.remove("lit");
			const arrow = s.from === s.to ? null : arrows.get(s.from + " " + s.to);
			lit = [arrow, labels.get(s.from + " " + s.event)].filter(Boolean);
			for (const node of lit) node.classList.add("lit");
			light(s.to);
			if (!arrow) return;
			first.before(arrow); // above the others
			const line = arrow.querySelector(".line");
			line.setAttribute("pathLength", "1");
			line.classList.remove("run");
			void line.getBoundingClientRect(); // so that it runs again
			line.classList.add("run");
		}
		function plain() {
			for (const node of lit) node.classList.remove("lit");
			lit = [];
		}
		for (const node of svg.querySelectorAll(".lit")) lit.push(node);
		light(svg.querySelector(".current")?.dataset.state);
		return { light, trace, plain };
	})();

	// The history, the latest step first.

	const history = (() => {
		const node = $("history"), most = Number(node.dataset.most);
		let earlier = 0;
		const pad = (n, width) => String(n).padStart(width, "0");
		function clockTime(ms) {
			const t = new Date(ms);
			return pad(t.getHours(), 2) + ":" + pad(t.getMinutes(), 2) + ":" + pad(t.getSeconds(), 2) + "." + pad(t.getMilliseconds(), 3);
		}
		function item(s) {
			const li = make("li", s.from === s.to ? "" : "moved");
			li.dataset.seq = s.seq;
			const details = make("details"), summary = make("summary");
			const time = make("time", "", clockTime(s.at));
			time.dateTime = new Date(s.at).toISOString();
			time.title = new Date(s.at).toLocaleString();
			const event = make("span", "event " + s.kind);
			event.append(make("i", "dot " + s.to), s.event);
			summary.append(time, event, make("span", "cause", s.cause), make("span", "attempt", s.attempt ? "#" + s.attempt : ""),
				make("span", "way", s.from === s.to ? "" : s.from + " → " + s.to));
			summary.title = s.why + (s.actions.length ? "\n" + s.actions.join(", ") : "");
			details.append(summary, make("p", "", s.why));
			if (s.actions.length) details.append(make("p", "actions", s.actions.join(", ")));
			li.append(details);
			return li;
		}
		function add(s, fresh) {
			const li = item(s);
			if (fresh) li.classList.add("fresh");
			const top = node.scrollTop;
			node.prepend(li);
			if (top > 0) node.scrollTop = top + li.offsetHeight; // who reads further down keeps the place
			while (node.children.length > most) {
				earlier = Number(node.lastElementChild.dataset.seq);
				node.lastElementChild.remove();
			}
			say();
			if (fresh) picture.trace(s);
		}
		function say() {
			$("earlier").textContent = earlier ? earlier + " earlier transitions are not shown" : "";
		}
		return {
			get length() { return node.children.length; },
			add,
			reset(steps, before) {
				node.replaceChildren(...steps.map(item).reverse());
				earlier = before;
				say();
				picture.plain();
				if (steps.length) picture.trace(steps[steps.length - 1]);
			},
		};
	})();

	// The list. Only the rows that can be seen are there; the rest is height.

	const list = (() => {
		const height = 34, beyond = 30;
		const box = $("list"), rows = $("rows");
		let from = 0, loaded = [], matched = -1, running = null, stale = false;
		function view() {
			const top = Math.floor(box.scrollTop / height), n = Math.ceil(box.clientHeight / height) + 1;
			return { top, n };
		}
		async function load() {
			if (running) {
				stale = true;
				return;
			}
			running = new AbortController();
			const v = view(), begin = Math.max(0, v.top - beyond);
			const want = new URLSearchParams({ q: text, state: filter, from: begin, n: Math.min(500, v.n + 2 * beyond) });
			try {
				const answer = await fetch("list?" + want, { signal: running.signal });
				if (answer.ok) show(await answer.json());
			} catch (e) {
				// The stream tells that the program is gone, and loads again when it is back.
			}
			running = null;
			if (stale) {
				stale = false;
				setTimeout(load, 0);
			}
		}
		function changed() { // of what is asked for: an answer to the former question is of no use
			if (running) {
				stale = true;
				running.abort();
			} else load();
		}
		function show(l) {
			clock(l.now);
			loaded = l.rows;
			from = l.from;
			matched = l.matched;
			for (const a of $("filters").children) {
				const name = a.dataset.filter;
				a.lastElementChild.textContent = name ? l.counts[name] : l.found;
				if (name === filter) a.setAttribute("aria-current", "true"); else a.removeAttribute("aria-current");
			}
			document.querySelector("#search input").placeholder = "Search " + l.total + " connections";
			if (!box.classList.contains("virtual")) { // until now the rows stood as they were sent
				box.classList.add("virtual");
				$("pages").replaceChildren();
			}
			rows.style.height = matched * height + "px";
			if (from > 0 && from >= matched) { // the list became shorter than where it was scrolled to
				box.scrollTop = 0;
				stale = true;
			}
			if (!matched) {
				rows.style.height = "";
				rows.replaceChildren(make("p", "nothing", l.total ? "No connection of this name and state." : "No connections yet."));
				return;
			}
			draw();
		}
		function draw() {
			const have = new Map();
			for (const a of [...rows.children]) if (a.dataset.key !== undefined) have.set(a.dataset.key, a); else a.remove();
			loaded.forEach((r, i) => {
				let a = have.get(r.key);
				if (a) have.delete(r.key); else {
					a = make("a", "row");
					a.dataset.key = r.key;
					const name = make("span", "key");
					bdi(name, r.key);
					a.append(make("i", "dot"), name, make("span", "state"));
					a.title = r.key;
					rows.append(a);
				}
				a.href = address(r.key);
				a.firstElementChild.className = "dot " + r.state;
				a.lastElementChild.textContent = r.state + (r.attempt > 1 ? " #" + r.attempt : "");
				a.dataset.row = from + i;
				a.style.transform = "translateY(" + (from + i) * height + "px)";
			});
			for (const a of have.values()) a.remove();
			mark();
		}
		function mark() {
			for (const a of rows.children) if (a.dataset.key === key) a.setAttribute("aria-current", "true"); else a.removeAttribute("aria-current");
		}
		box.addEventListener("scroll", () => {
			const v = view();
			if (v.top < from || v.top + v.n > from + loaded.length && from + loaded.length < matched) load();
		});
		addEventListener("resize", () => load());
		rows.addEventListener("click", (e) => {
			const a = e.target.closest("a.row");
			if (!a || e.ctrlKey || e.metaKey || e.shiftKey || e.button) return;
			e.preventDefault();
			key = a.dataset.key;
			mark();
			remember();
			open();
		});
		return { load, changed, mark, top() { box.scrollTop = 0; } };
	})();

	function address(to) {
		const a = new URLSearchParams();
		if (text) a.set("q", text);
		if (filter) a.set("state", filter);
		if (to) a.set("conn", to);
		return "?" + a;
	}
	function remember() {
		window.history.replaceState(null, "", address(key));
	}
	const input = document.querySelector("#search input");
	input.addEventListener("input", () => {
		text = input.value;
		list.top();
		list.changed();
		remember();
	});
	$("search").addEventListener("submit", (e) => e.preventDefault());
	$("filters").addEventListener("click", (e) => {
		const a = e.target.closest("a");
		if (!a) return;
		e.preventDefault();
		filter = a.dataset.filter === filter ? "" : a.dataset.filter;
		list.top();
		list.changed();
		remember();
	});
	if (filter && !states.includes(filter)) filter = "";
	if (!document.hidden) open();
})();
