import { formatTableName } from '../plan/table-name.js';
import { sameTable, type TableInfo } from './catalog.js';
import { promotionBlocked } from './hold.js';
import { qualified } from './identifier.js';
import type { PublishedTable } from './publication.js';

/**
 * PostgreSQL refuses UPDATE and DELETE of a table with REPLICA IDENTITY FULL of which not all columns are published: with the
 * publication of the way back green could neither apply a change of blue nor take one of the application. The preflight
 * refuses what the plan says of it; here is what a DO block, a function or somebody has done to green.
 *
 * @param green the tables of green that are moved, partitions too
 * @throws VerdigrisError PromotionBlocked
 */
export function refuseFullIdentity(published: readonly PublishedTable[], green: readonly TableInfo[]): void {
  const listed = published.filter(({ columns }) => columns !== undefined);
  const refused = green.filter(
    ({ replicaIdentity, name, root }) =>
      replicaIdentity === 'f' && listed.some(({ table }) => sameTable(table, name) || sameTable(table, root)),
  );
  if (refused.length === 0) return;
  const names = refused.slice(0, 10).map(({ name }) => formatTableName(name));
  const mend = refused.slice(0, 10).map(({ name }) => `ALTER TABLE ${qualified(name)} REPLICA IDENTITY DEFAULT`);
  throw promotionBlocked(
    `on green ${names.join(', ')} ${refused.length === 1 ? 'has' : 'have'} REPLICA IDENTITY FULL and columns that blue can't take, so no UPDATE and no DELETE there could be published (42P10): ${mend.join('; ')} on green`,
  );
}
