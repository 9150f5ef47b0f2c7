import { USER_SCHEMA } from '../catalog.js';
import type { Session } from '../session.js';
import { oneRow, type Found, type PairCheck } from './check.js';
import { listed } from './finding.js';
import { STANDBY } from './standby.js';

/*
 * What is sorted by text in a physical copy is sorted by the library of blue's server. Where green's has another order, its
 * indexes miss rows once it is primary, unique ones take what is there already, and a change of blue that looks for its row
 * by such a key is left out without an error. Where green's rows come by a copy of rows, green sorts them itself.
 */

interface Collation {
  readonly oid: number;
  /** With its schema, quoted. */
  readonly name: string;
}

export const standbyCollation: PairCheck = {
  name: 'standby-collation',
  methods: STANDBY,
  run: async ({ blue, green }) => {
    const [otherwise, perhaps]: [string[], string[]] = [[], []];
    for (const used of await readUsed(blue.session)) {
      const [ours, theirs] = [await readVersion(blue.session, used), await readVersion(green.session, used)];
      if (ours === theirs) continue;
      const shown = `${used.name} (${ours ?? 'no version'} on blue, ${theirs ?? 'no version'} on green)`;
      const isSame = (await readOrder(blue.session, used)) === (await readOrder(green.session, used));
      (isSame ? perhaps : otherwise).push(shown);
    }
    return [...(otherwise.length === 0 ? [] : [sorts(otherwise)]), ...(perhaps.length === 0 ? [] : [maySort(perhaps)])];
  },
};

/** Collations by which an index is sorted, or a table partitioned. */
async function readUsed(session: Session): Promise<Collation[]> {
  const { rows } = await session.query<Collation>(
    `SELECT o.oid::bigint::float8 AS oid, format('%I.%I', s.nspname, o.collname) AS name
       FROM pg_collation o JOIN pg_namespace s ON s.oid = o.collnamespace
      WHERE o.oid IN (
        SELECT unnest(i.indcollation::oid[]) FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid
          JOIN pg_namespace n ON n.oid = c.relnamespace WHERE ${USER_SCHEMA}
        UNION
        SELECT unnest(p.partcollation::oid[]) FROM pg_partitioned_table p JOIN pg_class c ON c.oid = p.partrelid
          JOIN pg_namespace n ON n.oid = c.relnamespace WHERE ${USER_SCHEMA})
      ORDER BY 2`,
  );
  return rows;
}

/** The version of the library as it is on this server: what is recorded of the database came along with the copy. */
async function readVersion(session: Session, { oid }: Collation): Promise<string | null> {
  const { version } = await oneRow<{ version: string | null }>(
    session,
    `SELECT CASE o.collprovider WHEN 'd' THEN pg_database_collation_actual_version(d.oid)
                                ELSE pg_collation_actual_version(o.oid) END AS version
       FROM pg_collation o, pg_database d WHERE o.oid = $1::oid AND d.datname = current_database()`,
    [oid],
  );
  return version;
}

/** How all pairs of ASCII's characters are sorted: another version often has the same order. */
async function readOrder(session: Session, { name }: Collation): Promise<string> {
  const { sum } = await oneRow<{ sum: string }>(
    session,
    `SELECT md5(string_agg(pair, '' ORDER BY pair COLLATE ${name}, pair COLLATE "C")) AS sum
       FROM (SELECT chr(a) || CASE WHEN b = 31 THEN '' ELSE chr(b) END AS pair
               FROM generate_series(32, 126) a, generate_series(31, 126) b) AS pairs`,
  );
  return sum;
}

const SAME_LIBRARY =
  'Make the standby on the operating system that blue has, of the same version, with the same ICU; or take bootstrap.method "copy", where green sorts for itself';

function sorts(names: readonly string[]): Found & { readonly side: 'green' } {
  return {
    side: 'green',
    severity: 'error',
    object: listed(names),
    message:
      "green's server sorts text in another order than blue's: once it is promoted, indexes that came along with the copy miss rows and let doubled ones in, and changes of blue are left out",
    remedy: SAME_LIBRARY,
  };
}

function maySort(names: readonly string[]): Found & { readonly side: 'green' } {
  return {
    side: 'green',
    severity: 'warning',
    object: listed(names),
    message:
      "green's server has another version of what sorts text than blue's: where the order has changed, indexes that came along with the copy miss rows and let doubled ones in once it is promoted. Pairs of ASCII characters are sorted in the same order",
    remedy: `${SAME_LIBRARY}. If other characters are known to be sorted as before, nothing; else look with amcheck on green (bt_index_check) before the run`,
  };
}
