// Lists and tables whose rows stay the same elements over updates, so that the keyboard focus stays where it is.
// Whatever comes from the node is shown with textContent only.

const REORDERING = /[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]/g;

/** Text from elsewhere without the marks that make what follows read backwards. */
export const plain = (text) => text.replace(REORDERING, "\ufffd");

/** Writing the same text again would make screen readers say it again, and lose a selection. */
export function setText(element, text) {
  const shown = plain(text);
  if (element.textContent !== shown) element.textContent = shown;
}

export function make(name, className = "", text = "") {
  const element = document.createElement(name);
  if (className) element.className = className;
  if (text) setText(element, text);
  return element;
}

/** Keeps one child of `parent` for each of `items`, in their order: `create(item)` once, `update(element, item)` always. */
export class Rows {
  #parent;
  #known = new Map();
  #keyOf;
  #create;
  #update;

  constructor(parent, { keyOf, create, update }) {
    this.#parent = parent;
    this.#keyOf = keyOf;
    this.#create = create;
    this.#update = update;
  }

  show(items) {
    const wanted = new Map(items.map((item) => [this.#keyOf(item), item]));
    for (const [key, element] of this.#known) {
      if (wanted.has(key)) continue;
      element.remove();
      this.#known.delete(key);
    }
    let place = 0;
    for (const [key, item] of wanted) {
      if (!this.#known.has(key)) this.#known.set(key, this.#create(item));
      const element = this.#known.get(key);
      const there = this.#parent.children[place] ?? null;
      if (there !== element) this.#parent.insertBefore(element, there);
      this.#update(element, item);
      place += 1;
    }
  }
}

/** A table that is a list of cards on a narrow screen; its roles are told, since CSS takes them from it there.
 *
 * `columns`: `{ title, text(item), name }`; `name`: somebody chose it, so it is set apart from the text around it.
 * `action`: `{ title, of(item), run(item) }`, a button at the end of each row.
 */
export class Table {
  #rows;
  #items = new Map();

  constructor(parent, label, columns, keyOf, action = null) {
    const table = make("table");
    table.setAttribute("role", "table");
    table.setAttribute("aria-label", label);
    const head = make("thead");
    head.setAttribute("role", "rowgroup");
    const titles = make("tr");
    titles.setAttribute("role", "row");
    for (const { title, className = "" } of [...columns, ...(action ? [{ title: action.title, className: "action" }] : [])]) {
      const cell = make("th", className, title);
      cell.scope = "col";
      cell.setAttribute("role", "columnheader");
      titles.append(cell);
    }
    head.append(titles);
    const body = make("tbody");
    body.setAttribute("role", "rowgroup");
    table.append(head, body);
    parent.append(table);
    this.#rows = new Rows(body, {
      keyOf,
      create: (item) => {
        const row = make("tr");
        row.setAttribute("role", "row");
        for (const column of columns) row.append(cellOf(column));
        if (action) row.append(this.#actionCell(action, keyOf(item)));
        return row;
      },
      update: (row, item) => {
        this.#items.set(keyOf(item), item);
        columns.forEach((column, place) => {
          const cell = row.children[place];
          const text = column.text(item);
          setText(cell.firstChild, text);
          cell.toggleAttribute("data-empty", text === "");
          if (column.name) cell.title = plain(text);
          if (column.state) cell.dataset.state = column.state(item);
        });
        if (action) row.lastChild.firstChild.setAttribute("aria-label", plain(action.of(item)));
      },
    });
  }

  show(items) {
    this.#items.clear();
    this.#rows.show(items);
  }

  #actionCell(action, key) {
    const cell = make("td", "action");
    cell.setAttribute("role", "cell");
    const button = make("button", "danger", action.title);
    button.type = "button";
    button.addEventListener("click", () => action.run(this.#items.get(key)));
    cell.append(button);
    return cell;
  }
}

function cellOf(column) {
  const cell = make("td", column.className ?? "");
  cell.setAttribute("role", "cell");
  cell.dataset.title = column.title;
  cell.append(make(column.name ? "bdi" : "span"));
  return cell;
}
