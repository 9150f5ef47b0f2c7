/** Where libpq goes for a server. */
export interface Addresses {
  /** In lower case; `127.0.0.1`, `::1`, `localhost` and folders of sockets are the machine of whoever asks. */
  readonly hosts: readonly string[];
  readonly ports: readonly string[];
}

export const LIBPQ_PORT = '5432';

/** What a connection string of libpq names, as keywords or as a URI. Pure. */
export function addressesOfConninfo(conninfo: string): Addresses {
  const uri = /^postgres(?:ql)?:\/\/(?:[^@/?]*@)?(\[[^\]]*\]|[^:/?]*)(?::(\d+))?/.exec(conninfo);
  const ofKeyword = (name: string): string[] =>
    [...conninfo.matchAll(new RegExp(`(?:^|\\s)${name}\\s*=\\s*(?:'([^']*)'|(\\S+))`, 'gi'))].map(
      ([, quoted, plain]) => quoted ?? plain ?? '',
    );
  const hosts =
    uri === null ? [...ofKeyword('host'), ...ofKeyword('hostaddr')] : [uri[1]?.replace(/^\[|\]$/g, '') ?? ''];
  return {
    hosts: hosts.filter((host) => host !== '').map((host) => host.toLowerCase()),
    ports: uri === null ? ofKeyword('port') : [uri[2] ?? LIBPQ_PORT],
  };
}

export function isLoopback(host: string): boolean {
  return host === 'localhost' || host === '::1' || host.startsWith('127.');
}

/** Whether a server that listens on `port` reaches itself by this connection string, and no other one. Pure. */
export function leadsToItself(conninfo: string, port: string): boolean {
  const { hosts, ports } = addressesOfConninfo(conninfo);
  const isOwn = (host: string): boolean => isLoopback(host) || host.startsWith('/');
  return (
    hosts.length > 0 && hosts.every(isOwn) && (ports.length === 0 ? [LIBPQ_PORT] : ports).every((one) => one === port)
  );
}
