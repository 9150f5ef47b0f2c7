import { setTimeout as sleep } from 'node:timers/promises';
import type { LinkProxy } from './link-proxy.js';

/** What can go wrong with a link for a while; whatever it is, the link is as before afterwards. */
export const LINK_FAULTS = {
  /** Connections are reset, and refused for a while. */
  cut: { lastsMs: 1_500, begin: (link) => link.refuse() },
  /** 80 ms more each way. */
  delayed: { lastsMs: 2_500, begin: (link) => link.delay(80) },
  'half-closed by the client': { lastsMs: 300, begin: (link) => link.halfClose('toServer') },
  'half-closed by the server': { lastsMs: 300, begin: (link) => link.halfClose('toClient') },
  /** Nothing that is sent arrives, for longer than the longest hold. */
  'silent to the server': { lastsMs: 3_000, begin: (link) => link.swallow('toServer') },
  'silent to the client': { lastsMs: 3_000, begin: (link) => link.swallow('toClient') },
  /** Silent, and what was sent never arrives: as a firewall that has forgotten its connections. */
  'silent, then reset': {
    lastsMs: 3_000,
    begin: (link) => link.swallow('toServer', 'toClient'),
    end: (link) => link.cut(),
  },
} as const satisfies Record<string, LinkFault>;

interface LinkFault {
  readonly lastsMs: number;
  readonly begin: (link: LinkProxy) => void;
  readonly end?: (link: LinkProxy) => void;
}

export type LinkFaultName = keyof typeof LINK_FAULTS;

export const LINK_FAULT_NAMES = Object.keys(LINK_FAULTS) as LinkFaultName[];

/** Begins the fault; `over` resolves when everything passes again. */
export function inflict(links: readonly LinkProxy[], name: LinkFaultName): { over: Promise<void> } {
  const { lastsMs, begin, end }: LinkFault = LINK_FAULTS[name];
  for (const link of links) begin(link);
  const over = sleep(lastsMs).then(() => {
    for (const link of links) {
      end?.(link);
      link.restore();
    }
  });
  return { over };
}
