/*
 * Entries of PgBouncer's [databases] section: `name = host=... port=... dbname=...`. Only where an entry leads is ever
 * changed; the rest of a line, and of the file, belongs to whoever wrote it and stays byte for byte.
 */

/** One line of the file, split where it is an entry. */
interface Line {
  readonly text: string;
  readonly entry: { readonly name: string; readonly left: string; readonly value: string } | undefined;
}

/** `key=value` of an entry; `raw` as it is written. */
interface Parameter {
  readonly key: string;
  readonly value: string;
}

const SECTION = /^\s*\[([^\]]*)\]/;
const ENTRY = /^(\s*("(?:[^"]|"")+"|[^\s="[;#%]+)\s*=\s*)(.*)$/;

/** What an entry takes over from the one that it is pointed at. */
const ADDRESS = ['host', 'port', 'dbname', 'user', 'password'];
/** Of these, what it loses when the other one has none. A forced user can't be taken away from a running PgBouncer. */
const REQUIRED = ['host', 'port', 'dbname'];

/** The text of a configuration file that PgBouncer includes. */
export class EntryFile {
  readonly #lines: Line[];

  constructor(text: string) {
    let inDatabases = true;
    this.#lines = text.split('\n').map((line) => {
      const section = SECTION.exec(line)?.[1];
      if (section !== undefined) inDatabases = section.trim() === 'databases';
      const [, left, name, value] = (inDatabases && section === undefined && ENTRY.exec(line)) || [];
      if (left === undefined || name === undefined) return { text: line, entry: undefined };
      return { text: line, entry: { name: unquoted(name), left, value: value ?? '' } };
    });
  }

  has(name: string): boolean {
    return this.#value(name) !== undefined;
  }

  /** One parameter of an entry; undefined when it is not there or not readable. */
  parameter(name: string, key: string): string | undefined {
    try {
      return parse(this.#need(name)).find((parameter) => parameter.key === key)?.value;
    } catch (error) {
      if (error instanceof RangeError) return undefined;
      throw error;
    }
  }

  /** Makes the entry lead where the entry `like` leads. @throws RangeError when one of them is not there or not readable. */
  point(name: string, like: string): void {
    const own = parse(this.#need(name));
    const target = new Map(parse(this.#need(like)).map(({ key, value }) => [key, value]));
    // PgBouncer's default is the name of the entry.
    if (!target.has('dbname')) target.set('dbname', like);
    const kept = own.filter(({ key }) => !REQUIRED.includes(key) && !(ADDRESS.includes(key) && target.has(key)));
    const taken = ADDRESS.flatMap((key) => {
      const value = target.get(key);
      return value === undefined ? [] : [{ key, value }];
    });
    this.set(name, format([...taken, ...kept]));
  }

  /** Gives an entry a value; one that is not there is put at the end. */
  set(name: string, value: string): void {
    const index = this.#lines.findLastIndex((line) => line.entry?.name === name);
    const left = this.#lines[index]?.entry?.left ?? `${quoted(name)} = `;
    const line = { text: left + value, entry: { name, left, value } };
    if (index >= 0) this.#lines[index] = line;
    else {
      if (this.#lines.at(-1)?.text === '') this.#lines.pop();
      if (this.#endsElsewhere()) this.#lines.push({ text: '[databases]', entry: undefined });
      this.#lines.push(line, { text: '', entry: undefined });
    }
  }

  toString(): string {
    return this.#lines.map(({ text }) => text).join('\n');
  }

  #endsElsewhere(): boolean {
    const last = this.#lines.findLast(({ text }) => SECTION.test(text));
    return last !== undefined && SECTION.exec(last.text)?.[1]?.trim() !== 'databases';
  }

  /** PgBouncer takes the last one of two entries with one name. */
  #value(name: string): string | undefined {
    return this.#lines.findLast((line) => line.entry?.name === name)?.entry?.value;
  }

  #need(name: string): string {
    const value = this.#value(name);
    if (value === undefined) throw new RangeError(`it has no entry "${name}"`);
    return value;
  }
}

const PARAMETER = /\s*([A-Za-z_]+)\s*=\s*(?:'((?:[^']|'')*)'|([^\s']*))(?=\s|$)/y;

function parse(value: string): Parameter[] {
  const parameters: Parameter[] = [];
  PARAMETER.lastIndex = 0;
  while (value.slice(PARAMETER.lastIndex).trim() !== '') {
    const match = PARAMETER.exec(value);
    const key = match?.[1];
    // The text may hold a password, so it is not shown.
    if (match === null || key === undefined) throw new RangeError('an entry is not of the form key=value key=value');
    parameters.push({ key, value: match[2]?.replaceAll("''", "'") ?? match[3] ?? '' });
  }
  return parameters;
}

function format(parameters: readonly Parameter[]): string {
  return parameters.map(({ key, value }) => `${key}=${/^[^\s'=]+$/.test(value) ? value : literal(value)}`).join(' ');
}

function literal(value: string): string {
  return `'${value.replaceAll("'", "''")}'`;
}

function unquoted(name: string): string {
  return name.startsWith('"') ? name.slice(1, -1).replaceAll('""', '"') : name;
}

function quoted(name: string): string {
  return /^[A-Za-z0-9_.-]+$/.test(name) ? name : `"${name.replaceAll('"', '""')}"`;
}
