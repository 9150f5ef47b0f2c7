import { formatTableName } from '../plan/table-name.js';
import type { TablePatterns } from './catalog-pattern.js';
import { promotionBlocked } from './hold.js';
import { qualified } from './identifier.js';
import { readProgress, writeProgress, type ProgressKey } from './migrate/progress-row.js';
import { writtenOnlyOnGreen, type Look } from './only-on-green.js';
import { excludedRelations } from './schema-copy/excluded-relations.js';
import { readSequenceShapes } from './sequences.js';
import type { Session } from './session.js';

/* What a database may come to hold during a run that neither feed nor fence knows of: the preflight asks first. */

/** Subscriptions in this database that are not ours: what their apply workers write passes the fence. */
export async function readOtherSubscriptions(session: Session): Promise<string[]> {
  const { rows } = await session.query<{ name: string }>(
    `SELECT subname AS name FROM pg_subscription
      WHERE subdbid = (SELECT oid FROM pg_database WHERE datname = current_database()) AND subname NOT LIKE 'verdigris\\_%'
      ORDER BY 1`,
  );
  return rows.map(({ name }) => name);
}

/** How many large objects there are: logical replication does not carry them. */
export async function countLargeObjects(session: Session): Promise<bigint> {
  const { rows } = await session.query<{ count: string }>(
    'SELECT count(*)::text AS count FROM pg_largeobject_metadata',
  );
  return BigInt(rows[0]?.count ?? 0);
}

const NAMED = 20;

/**
 * What green, which serves, has come to hold that is not replicated to blue: a rollback leaves it there. In words that stay
 * as they are for as long as it is so, since a loss is accepted as it was named.
 */
export async function unmovedOnGreen(green: Session, runId: string, look?: Look): Promise<string[]> {
  const names = await readOtherSubscriptions(green);
  const { rows } = await green.query<{ some: boolean }>('SELECT EXISTS (SELECT FROM pg_largeobject_metadata) AS some');
  const written = await writtenOnlyOnGreen(green, runId, look);
  const more = written.length > NAMED ? [`${written.length - NAMED} more`] : [];
  return [
    ...(names.length === 0 ? [] : [`what comes to green by subscriptions to other databases (${names.join(', ')})`]),
    ...(rows[0]?.some === true ? ['the large objects of green'] : []),
    ...(written.length === 0
      ? []
      : [`the rows of ${[...written.slice(0, NAMED), ...more].join(', ')}, which blue does not have`]),
  ];
}

/** Writes down which sequences green has before the plan's steps: one that they drop is missed by nobody. */
export async function rememberSequences(green: Session, runId: string): Promise<void> {
  if ((await readProgress(green, copiedKey(runId))) !== undefined) return;
  const names = (await readSequenceShapes(green)).map(({ name }) => qualified(name));
  await writeProgress(green, copiedKey(runId), names, true);
}

function copiedKey(runId: string): ProgressKey {
  return { runId, step: 'sequences before the plan', object: 'green' };
}

/** Sequences that belong to what moves and were made on blue since green got its schema. */
async function newSequences(
  blue: Session,
  green: Session,
  { runId, patterns }: { readonly runId: string; readonly patterns: TablePatterns },
): Promise<string[]> {
  const copied = (await readProgress<readonly string[]>(green, copiedKey(runId)))?.state;
  if (copied === undefined) return [];
  const there = new Set([
    ...copied,
    ...(await readSequenceShapes(green)).map(({ name }) => qualified(name)),
    ...(await excludedRelations(blue, patterns)).map((name) => qualified(name)),
  ]);
  return (await readSequenceShapes(blue))
    .filter(({ name }) => !there.has(qualified(name)))
    .map(({ name }) => formatTableName(name));
}

/**
 * Asked again before writes move from blue: weeks may have passed since the preflight.
 *
 * @throws VerdigrisError PromotionBlocked
 */
export async function refuseUnmovedContents(
  blue: Session,
  green: Session,
  of: { readonly runId: string; readonly patterns: TablePatterns },
): Promise<void> {
  const found: string[] = [];
  for (const [side, session] of Object.entries({ blue, green })) {
    const names = await readOtherSubscriptions(session);
    if (names.length > 0)
      found.push(
        `${side} subscribes to another database (${names.join(', ')}): what arrives that way passes the fence`,
      );
  }
  const objects = await countLargeObjects(blue);
  if (objects > 0n) found.push(`blue has ${objects} large objects, which are not replicated: move them into columns`);
  const sequences = await newSequences(blue, green, of);
  if (sequences.length > 0) {
    found.push(
      `green has no sequence ${sequences.slice(0, 10).join(', ')}: make it there as it is on blue (CREATE SEQUENCE), or drop it on blue`,
    );
  }
  if (found.length > 0) throw promotionBlocked(found.join('; '));
}
