import { spawn } from 'node:child_process';
import { createRequire } from 'node:module';
import { z } from 'zod';
import { reasonOf } from '../failure-text.js';
import type { RawSql } from './raw-sql.js';
import { isObject } from './sql-tree.js';

/** One complaint of squawk about a statement. */
export interface SquawkFinding {
  readonly place: string;
  readonly rule: string;
  readonly message: string;
  readonly help: string | null;
}

/** What squawk says; or why it could not be asked. */
export type SquawkReport = { readonly findings: readonly SquawkFinding[] } | { readonly unavailable: string };

/** Squawk is fast; one that takes longer hangs, and the lint must not hang with it. */
const TIME_LIMIT_MS = 20_000;

/** Asks squawk (its own binary, from its npm platform package) about each text. It is not asked about nothing. */
export async function squawk(texts: readonly RawSql[]): Promise<SquawkReport> {
  if (texts.length === 0) return { findings: [] };
  try {
    const binary = squawkBinary();
    const findings: SquawkFinding[] = [];
    for (const { sql, place } of texts) {
      const complaints = outputSchema.parse(JSON.parse(await run(binary, sql)));
      findings.push(...complaints.map((c) => ({ place, rule: c.rule_name, message: c.message, help: c.help })));
    }
    return { findings };
  } catch (error) {
    return { unavailable: reasonOf(error) };
  }
}

const outputSchema = z.array(z.object({ rule_name: z.string(), message: z.string(), help: z.string().nullable() }));

/** Where the platform package has put the binary. Throws when this platform has none. */
function squawkBinary(): string {
  const loaded: unknown = createRequire(import.meta.url)('squawk-cli/js/index.js');
  const find = isObject(loaded) ? loaded['getBinaryPath'] : undefined;
  const path: unknown = typeof find === 'function' ? find() : undefined;
  if (typeof path !== 'string') throw new Error('squawk-cli does not say where its binary is');
  return path;
}

function run(binary: string, sql: string): Promise<string> {
  return new Promise((resolve, reject) => {
    // No configuration of whoever runs the lint: the same plan is judged the same everywhere.
    const child = spawn(binary, ['--reporter', 'json', '--stdin-filepath', 'step.sql', '--pg-version', '15'], {
      stdio: ['pipe', 'pipe', 'ignore'],
      cwd: '/',
      timeout: TIME_LIMIT_MS,
    });
    let output = '';
    child.stdout.setEncoding('utf8').on('data', (text: string) => (output += text));
    child.on('error', reject);
    child.on('close', (code) => {
      // 0 is nothing found, 1 something found.
      if (code === 0 || code === 1) resolve(output);
      else reject(new Error(`squawk ended with code ${String(code)}`));
    });
    child.stdin.on('error', () => undefined);
    child.stdin.end(sql);
  });
}
