/*
 * What the runtime API shows. Both tables name their columns in a line that begins with "#": columns are found by name,
 * since later versions add some.
 */

/** A row of `show servers state`: https://docs.haproxy.org/2.6/management.html#9.3 */
export interface ShownServer {
  readonly name: string;
  /** The weight in force. */
  readonly weight: number;
  /** The weight in the configuration: what a restart begins with. */
  readonly configuredWeight: number;
  /** By its health checks, or by having none. */
  readonly isUp: boolean;
  /** Somebody has put it, or one that it tracks, into maintenance or drains it; or its name has no address now. */
  readonly isHeld: boolean;
  /** Its line in the configuration says `disabled`: held after every restart, whatever it is now. */
  readonly isDisabledByConfiguration: boolean;
  /** An agent (`agent-check`) is asked, whose answers may set the weight. */
  readonly hasAgent: boolean;
  /** Undefined for a name that is not resolved, and for a Unix socket. */
  readonly address: { readonly host: string; readonly port: number } | undefined;
}

/** A row of `show stat`. */
export interface ShownStatistics {
  /** Name of the server, or `BACKEND`. */
  readonly name: string;
  /** `UP`, `DOWN`, `no check`, `MAINT`, ... */
  readonly status: string;
  /** Connections that are open now. */
  readonly connections: number;
  readonly isBackup: boolean;
  /** Only of `BACKEND`: `tcp`, `roundrobin`. */
  readonly mode: string;
  readonly algorithm: string;
}

/** Operational states in which a server takes connections: starting, running. */
const TAKES_CONNECTIONS = ['1', '2'];

/**
 * What `srv_admin_state` is made of: forced (1) or inherited (2) maintenance, forced (8) or inherited (16) drain, a name
 * without an address (32). The others hold nothing, and stay for as long as the process lives: `disabled` in the
 * configuration (4), and another host name than there (64).
 */
const HELD = 1 | 2 | 8 | 16 | 32;
const DISABLED = 4;

/** In `srv_agent_state`: there is an agent (2), and it is asked (4). */
const AGENT = 2 | 4;

export function serversOf(text: string): ShownServer[] {
  return rowsOf(text, ' ').map((row) => {
    const [host, port] = [row('srv_addr'), Number(row('srv_port'))];
    const isAddress = /^[0-9a-f.:]+$/i.test(host) && port > 0;
    return {
      name: row('srv_name'),
      weight: Number(row('srv_uweight')),
      configuredWeight: Number(row('srv_iweight')),
      isUp: TAKES_CONNECTIONS.includes(row('srv_op_state')),
      isHeld: (Number(row('srv_admin_state')) & HELD) !== 0,
      isDisabledByConfiguration: (Number(row('srv_admin_state')) & DISABLED) !== 0,
      hasAgent: (Number(row('srv_agent_state')) & AGENT) === AGENT,
      address: isAddress ? { host, port } : undefined,
    };
  });
}

export function statisticsOf(text: string): ShownStatistics[] {
  return rowsOf(text, ',').map((row) => ({
    name: row('svname'),
    status: row('status'),
    connections: Number(row('scur')),
    isBackup: row('bck') === '1',
    mode: row('mode'),
    algorithm: row('algo'),
  }));
}

/** Whether the text is a table, also one without rows. */
export function isTable(text: string): boolean {
  return /^# /m.test(text);
}

/** None when there is no such table in the text. */
function rowsOf(text: string, separator: string): ((column: string) => string)[] {
  const lines = text.split('\n');
  const header = lines.findIndex((line) => line.startsWith('# '));
  if (header < 0) return [];
  const columns = (lines[header] ?? '').slice(2).split(separator);
  return lines
    .slice(header + 1)
    .filter((line) => line.trim() !== '')
    .map((line) => {
      const values = fieldsOf(line, separator);
      return (column: string) => values[columns.indexOf(column)] ?? '';
    });
}

/** Fields of a line; one in quotes may hold the separator. */
function fieldsOf(line: string, separator: string): string[] {
  return [...line.matchAll(new RegExp(`(?:^|${separator})(?:"((?:[^"]|"")*)"|([^${separator}]*))`, 'g'))].map(
    ([, quoted, plain]) => quoted?.replaceAll('""', '"') ?? plain ?? '',
  );
}
