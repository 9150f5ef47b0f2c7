import type { Plan } from '../../../plan/schema.js';
import type { Side } from '../../../side.js';
import { streamNames } from '../../streams.js';

/** One step of the bootstrap `standby`, as it would be done. */
export interface DryRunStep {
  readonly side: Side;
  readonly what: string;
  /** How a rollback takes it back; null when nothing can. */
  readonly undo: string | null;
}

/** What the bootstrap `standby` would do on which server, in its order. Pure: nothing is asked and nothing is touched. */
export function standbyDryRun(plan: Plan): readonly DryRunStep[] {
  const streams = streamNames(plan.name, 'to_green', plan.replicate.streams);
  const names = streams.join(', ');
  return [
    {
      side: 'blue',
      what: 'make the schema verdigris and claim the database; green gets both by its physical replication',
      undo: 'the schema is dropped',
    },
    { side: 'blue', what: `CREATE PUBLICATION for the tables of the plan: ${names}`, undo: 'dropped' },
    { side: 'blue', what: `pg_create_logical_replication_slot(..., 'pgoutput'): ${names}`, undo: 'dropped' },
    { side: 'green', what: 'wait until it has replayed beyond the start of every slot', undo: 'nothing to undo' },
    {
      side: 'green',
      what: "ALTER SYSTEM SET default_transaction_read_only = 'on' and reload, until green is fenced: nobody writes there by mistake",
      undo: 'reset when green is fenced; kept on by a rollback from a promoted green',
    },
    {
      side: 'green',
      what: 'SELECT pg_promote(): the whole cluster, with all its databases, stops being a standby',
      undo: null,
    },
    {
      side: 'green',
      what: 'read the position at which it left the WAL of blue; make its copy of the schema verdigris its own; drop its copy of the publications',
      undo: 'the schema is dropped; the tables stay, since no copy made them',
    },
    {
      side: 'green',
      what: `CREATE SUBSCRIPTION without a copy, pg_replication_origin_advance() to that position, ENABLE: ${names}`,
      undo: 'dropped',
    },
  ];
}
