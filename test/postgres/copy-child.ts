import { copyParcel } from '../../src/postgres/bootstrap/copy/copy-parcel.js';
import type { CopyContext } from '../../src/postgres/bootstrap/copy/copy-context.js';

/*
 * A worker of its own that copies one parcel: so that a test can kill or freeze it. Says on standard output what it does,
 * a line each: `bytes <n>`, `outcome <text>`.
 */

interface Order extends Pick<CopyContext, 'databases' | 'run' | 'plan'> {
  readonly parcel: number;
}

const order = JSON.parse(process.env['COPY_ORDER'] ?? '{}') as Order;
const say = (line: string): void => {
  process.stdout.write(`${line}\n`);
};
const report = (progress: object): void => {
  if ('bytes' in progress) say(`bytes ${String(progress.bytes)}`);
};
copyParcel({ ...order, signal: new AbortController().signal, report }, order.parcel).then(
  ({ outcome }) => say(`outcome ${outcome}`),
  (error: unknown) => say(`outcome ${error instanceof Error ? error.message : String(error)}`),
);
