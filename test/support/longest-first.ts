import { basename } from 'node:path';
import { BaseSequencer, type TestSpecification } from 'vitest/node';

/** Those that take longest, by what was measured: begun first, they do not go on alone at the end. */
const LONGEST = [
  'worker-killed',
  'promotion-freeze-points',
  'worker-frozen',
  'promotion-kill-points',
  'killed-workers',
  'links',
  'processes',
  'taken-down-killed',
  'rollback-moments',
  'odd-servers',
  'workflow-reset',
  'traffic-webhooks',
  'blocked-way-back',
  'rollback-runs',
  'unknown-connection',
  'pgbouncer',
  'pgbouncer-struck',
];

/** The order of the files of `npm run test:faults`. */
export class LongestFirst extends BaseSequencer {
  override sort(files: TestSpecification[]): Promise<TestSpecification[]> {
    const place = ({ moduleId }: TestSpecification): number => {
      const at = LONGEST.indexOf(basename(moduleId, '.faults.ts'));
      return at < 0 ? LONGEST.length : at;
    };
    return Promise.resolve([...files].sort((a, b) => place(a) - place(b)));
  }
}
