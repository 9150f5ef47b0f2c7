import { ident } from '../identifier.js';
import { closeSession, type Session } from '../session.js';
import { cancellable, type StepContext } from '../migrate/step-context.js';
import { SCHEMA_STEP } from './apply-pre-data.js';
import { applyStatements } from './apply-post-data.js';
import { schemaCopyFailed } from './schema-copy-failed.js';
import type { IndexStatement, SchemaStatements } from './schema-statements.js';

/**
 * Makes the secondary indexes without stopping writers: those of partitioned tables on the parent only, then all others
 * CONCURRENTLY, `parallel` tables at a time, then joins them. Run again it goes on where it was: a finished index is
 * kept, an INVALID leftover of a build that died is dropped and built again.
 *
 * @throws VerdigrisError SchemaCopyFailed that names the index.
 */
export async function applySecondaryIndexes(
  context: StepContext,
  indexes: SchemaStatements['secondaryIndexes'],
  parallel = 2,
): Promise<void> {
  await applyStatements(
    context,
    'parent indexes',
    indexes.parents.map((index) => index.create),
  );
  await buildAll(context, indexes.indexes, parallel);
  await applyStatements(context, 'attached indexes', indexes.attach);
}

async function buildAll(context: StepContext, indexes: readonly IndexStatement[], parallel: number): Promise<void> {
  // Builds on one table wait for each other, so a table is one piece of work.
  const tables = byTable(indexes);
  let built = 0;
  const lane = async (number: number): Promise<void> => {
    const session = await context.connect(`indexes ${number}`);
    try {
      // The build waits for every transaction that is open now, and its lock lets readers and writers pass: no hurry.
      await session.query(`SELECT set_config('lock_timeout', '0', false), set_config('search_path', '', false)`);
      for (let table = tables.shift(); table !== undefined; table = tables.shift()) {
        for (const index of table) {
          await build(context, session, index);
          built++;
          context.onProgress({
            step: SCHEMA_STEP,
            object: 'indexes',
            done: built,
            total: indexes.length,
            rowsPerSecond: 0,
            etaSeconds: null,
          });
        }
      }
    } catch (error) {
      // The other lanes end after the index that they are at.
      tables.length = 0;
      throw error;
    } finally {
      await closeSession(session);
    }
  };
  const lanes = await Promise.allSettled(
    Array.from({ length: Math.min(parallel, tables.length) }, (_, i) => lane(i + 1)),
  );
  for (const result of lanes) if (result.status === 'rejected') throw result.reason;
}

function byTable(indexes: readonly IndexStatement[]): IndexStatement[][] {
  const tables = new Map<string, IndexStatement[]>();
  for (const index of indexes) {
    const key = JSON.stringify([index.table.schema, index.table.name]);
    tables.set(key, [...(tables.get(key) ?? []), index]);
  }
  return [...tables.values()];
}

/** Builds one index unless it is there; tried a second time when a deadlock with another build made it INVALID. */
async function build(context: StepContext, session: Session, index: IndexStatement): Promise<void> {
  for (let attempt = 1; ; attempt++) {
    try {
      const state = await readIndexState(session, index);
      if (state === 'valid') return;
      if (state === 'invalid') {
        await cancellable(context, session, () =>
          session.query(`DROP INDEX CONCURRENTLY IF EXISTS ${ident(index.table.schema)}.${ident(index.name)}`),
        );
      }
      await cancellable(context, session, () => session.query(index.create));
      return;
    } catch (error) {
      context.signal.throwIfAborted();
      const failed = schemaCopyFailed(index.create, error);
      if (!failed.retryable || attempt >= BUILD_TRIES) throw failed;
    }
  }
}

const BUILD_TRIES = 3;

async function readIndexState(session: Session, index: IndexStatement): Promise<'missing' | 'invalid' | 'valid'> {
  const { rows } = await session.query<{ valid: boolean }>(
    `SELECT i.indisvalid AND i.indisready AS valid
       FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_index i ON i.indexrelid = c.oid
      WHERE n.nspname = $1 AND c.relname = $2`,
    [index.table.schema, index.name],
  );
  const row = rows[0];
  return row === undefined ? 'missing' : row.valid ? 'valid' : 'invalid';
}
