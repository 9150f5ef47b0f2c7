import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { runProgram } from '../data/program.js';
import { UP, type Prepared } from './change.js';

/** pgroll, by its binary: it fills the table in place, and by a trigger what the application writes meanwhile. */
export async function preparePgroll(
  binary: string,
  databaseUri: string,
  signal: AbortSignal = new AbortController().signal,
): Promise<Prepared> {
  const uri = `${databaseUri}?sslmode=disable`;
  const pgroll = async (...args: string[]): Promise<void> => {
    await runProgram(binary, [...args, '--postgres-url', uri], { signal, watched: false });
  };
  const column = { name: 'metadata', type: 'jsonb', nullable: false };
  const folder = mkdtempSync(join(tmpdir(), 'bench-pgroll-'));
  const remove = (): void => rmSync(folder, { recursive: true, force: true });
  const file = join(folder, '01_add_metadata.json');
  try {
    await pgroll('init');
    await pgroll('baseline', '00_base', folder, '--yes');
    writeFileSync(file, JSON.stringify({ operations: [{ add_column: { table: 'transactions', up: UP, column } }] }));
  } catch (error) {
    remove();
    throw error;
  }
  return {
    beside: () => pgroll('start', file).finally(remove),
    // It ends the old shape of the table by design, and with it the writes of whoever does not know the column.
    after: () => pgroll('complete'),
  };
}
