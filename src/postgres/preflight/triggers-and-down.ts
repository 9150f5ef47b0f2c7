import { formatTableName } from '../../plan/table-name.js';
import { qualified } from '../identifier.js';
import { planWork, type TableWork } from '../migrate/plan-work.js';
import { TRIGGER_NAME } from '../migrate/up-down-trigger.js';
import { partitionTree } from '../partition-tree.js';
import type { Session } from '../session.js';
import type { Found, SideCheck } from './check.js';

/*
 * What `down` gives an old column is put there by a BEFORE trigger: those whose names sort before it have not seen it yet. And
 * UPDATE OF goes by the columns that the statement names, not by those that a trigger has changed. Both sides have the same in
 * the end, so nothing else would tell.
 */

interface Unseeing {
  readonly trigger: string;
  readonly on: string;
  readonly columns: readonly string[];
  readonly isBefore: boolean;
}

export const triggersAndDown: SideCheck = {
  name: 'triggers-and-down',
  sides: ['blue'],
  onlyWarns: true,
  run: async ({ session, plan }) => {
    const found: Found[] = [];
    for (const work of (await planWork(plan)).tables) {
      for (const one of await unseeingTriggers(session, work)) found.push(told(work, one));
    }
    return found;
  },
};

async function unseeingTriggers(session: Session, { table, derived }: TableWork): Promise<readonly Unseeing[]> {
  const targets = derived.flatMap(({ down }) => (down === undefined ? [] : [down.column]));
  if (targets.length === 0) return [];
  const { rows } = await session.query<Unseeing>(UNSEEING, [qualified(table), targets, TRIGGER_NAME]);
  return rows;
}

function told({ table }: TableWork, { trigger, on, columns, isBefore }: Unseeing): Found {
  const names = columns.map((column) => `"${column}"`).join(', ');
  return {
    severity: 'warning',
    object: `${on}.${trigger}`,
    message: isBefore
      ? `the trigger "${trigger}" looks at ${names} of ${formatTableName(table)}, which "down" fills: for a write of the new column alone it fires before that, and sees the old value`
      : `the trigger "${trigger}" fires for UPDATE OF ${names} of ${formatTableName(table)}, which "down" fills: it does not fire for an UPDATE that names the new column alone`,
    remedy: isBefore
      ? `On blue before the run: ALTER TRIGGER ... RENAME TO a name that sorts after "${TRIGGER_NAME}", where it changes no column that "up" reads; or code that writes both columns until the run has ended`
      : 'On blue before the run: AFTER UPDATE without OF, with WHEN (OLD.... IS DISTINCT FROM NEW....); or code that writes both columns until the run has ended',
  };
}

/** A BEFORE trigger by the text of its definition and of its function; the target of `down` is looked for by its name. */
const UNSEEING = `
SELECT t.tgname::text AS trigger, t.tgrelid::regclass::text AS on, given.is_before AS "isBefore",
       array_agg(target.name ORDER BY target.name) AS columns
  FROM ${partitionTree('to_regclass($1)')} tree
  JOIN pg_trigger t ON t.tgrelid = tree.relid AND NOT t.tgisinternal AND t.tgparentid = 0 AND t.tgenabled IN ('O', 'A')
  JOIN pg_proc p ON p.oid = t.tgfoid
 CROSS JOIN unnest($2::text[]) AS target (name)
  LEFT JOIN pg_attribute a ON a.attrelid = t.tgrelid AND a.attname = target.name
 CROSS JOIN LATERAL (
   SELECT t.tgtype & 3 = 3 AND t.tgtype & 20 <> 0 AND t.tgname::text COLLATE "C" < $3
          AND lower(pg_get_triggerdef(t.oid) || ' ' || p.prosrc)
              ~ ('\\m' || regexp_replace(lower(target.name), '(\\W)', '\\\\\\1', 'g') || '\\M') AS is_before,
          t.tgtype & 16 <> 0 AND a.attnum = ANY (t.tgattr::int2[]) AS is_of) given
 WHERE given.is_before OR given.is_of
 GROUP BY 1, 2, 3
 ORDER BY 2, 1, 3`;
