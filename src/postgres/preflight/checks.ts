import { clients, longTransactions, otherRouters, preparedTransactions, visibility } from './activity.js';
import {
  connections,
  logicalReplicationWorkers,
  replicationOrigins,
  replicationSlots,
  walSenders,
  workerProcesses,
} from './capacity.js';
import { jobQueues, listeners } from './beside-the-fence.js';
import type { PairCheck, SideCheck } from './check.js';
import { clocks } from './clocks.js';
import { computedFromTables } from './computed-from-tables.js';
import { databaseRights } from './database-rights.js';
import {
  eventTriggerRights,
  eventTriggers,
  forcedRowSecurity,
  replicaTriggers,
  rowLevelSecurity,
  rules,
  swallowedErrors,
  writingEventTriggers,
} from './code.js';
import { otherConsumers, otherOrigins, otherSubscriptions, slotNames } from './consumers.js';
import { defaultPrivileges } from './default-privileges.js';
import { distance } from './distance.js';
import { domainColumns } from './domain-columns.js';
import { extensions } from './extensions.js';
import { feedTimeouts } from './feed-timeouts.js';
import { foreignServers } from './foreign-servers.js';
import { functionPaths } from './function-paths.js';
import { advisoryLocks, hypertables, largeObjects, scheduledJobs, sequenceRoom } from './contents.js';
import { collation, encoding, roles, sameDatabase, settings, storedSettings, versionOrder } from './pair.js';
import { securityLabels, tablespaces } from './left-out.js';
import { loggedPassword } from './logged-password.js';
import { money } from './money.js';
import { notValidChecks } from './not-valid-checks.js';
import { openSchemas } from './open-schemas.js';
import { ownership } from './owners-and-grants.js';
import { peerConnection } from './peer-connection.js';
import { planExtensions } from './plan-extensions.js';
import { planLint } from './plan-lint.js';
import { planOnBlue, planTrial } from './plan-on-blue.js';
import { planRights } from './plan-rights.js';
import { pooler } from './pooler.js';
import { privileges, sequencePrivileges, tableOwnership } from './privileges.js';
import { rowTypes } from './row-types.js';
import { rowsByPosition } from './rows-by-position.js';
import { schemaLocks } from './schema-locks.js';
import { refusedTruncates } from './refused-truncates.js';
import { schemaPrivileges } from './schema-privileges.js';
import { replicaIdentity } from './replica-identity.js';
import { replicas } from './replicas.js';
import {
  asynchronousCommit,
  connectionParameters,
  inRecovery,
  readOnlyByDefault,
  serverVersion,
  walDisk,
  walLevel,
  walRetention,
} from './server.js';
import { serverValues } from './server-values.js';
import { synchronousStandbys } from './synchronous-standbys.js';
import { systemGrants } from './system-grants.js';
import { superuserObjects } from './superuser-objects.js';
import { standbyCollation } from './standby-collation.js';
import { standbyCluster, standbySlot } from './standby-cluster.js';
import { standbyOrigin, standbyPrivileges, standbyReplay } from './standby.js';
import { typeOids } from './type-oids.js';
import { inheritedColumns, invalidIndexes, partitions, patterns, tornApart, unmovedRows } from './tables.js';
import { triggersAndDown } from './triggers-and-down.js';
import { foreignState, givenAway, greenEmpty, nameIsFree, ownedByAnother } from './target.js';

/** Every check of one side, in the order of docs/preflight.md. */
export const SIDE_CHECKS: readonly SideCheck[] = [
  connectionParameters,
  pooler,
  serverVersion,
  inRecovery,
  walLevel,
  readOnlyByDefault,
  walRetention,
  walDisk,
  asynchronousCommit,
  synchronousStandbys,
  feedTimeouts,
  replicationSlots,
  slotNames,
  replicationOrigins,
  walSenders,
  logicalReplicationWorkers,
  workerProcesses,
  connections,
  privileges,
  tableOwnership,
  sequencePrivileges,
  visibility,
  foreignState,
  ownedByAnother,
  givenAway,
  nameIsFree,
  preparedTransactions,
  longTransactions,
  clients,
  otherRouters,
  patterns,
  planLint,
  planOnBlue,
  inheritedColumns,
  rowTypes,
  rowsByPosition,
  domainColumns,
  planRights,
  triggersAndDown,
  notValidChecks,
  replicaIdentity,
  unmovedRows,
  securityLabels,
  tablespaces,
  invalidIndexes,
  tornApart,
  largeObjects,
  sequenceRoom,
  serverValues,
  typeOids,
  advisoryLocks,
  jobQueues,
  listeners,
  scheduledJobs,
  hypertables,
  replicaTriggers,
  partitions,
  refusedTruncates,
  rules,
  eventTriggers,
  rowLevelSecurity,
  swallowedErrors,
  functionPaths,
  computedFromTables,
  openSchemas,
  otherSubscriptions,
  otherConsumers,
];

/** Every check that needs both sides. */
export const PAIR_CHECKS: readonly PairCheck[] = [
  sameDatabase,
  versionOrder,
  greenEmpty,
  planTrial,
  encoding,
  collation,
  settings,
  money,
  storedSettings,
  extensions,
  planExtensions,
  schemaPrivileges,
  schemaLocks,
  superuserObjects,
  foreignServers,
  roles,
  ownership,
  databaseRights,
  systemGrants,
  defaultPrivileges,
  forcedRowSecurity,
  eventTriggerRights,
  writingEventTriggers,
  otherOrigins,
  replicas,
  peerConnection,
  loggedPassword,
  distance,
  clocks,
  standbyOrigin,
  standbyReplay,
  standbyPrivileges,
  standbyCollation,
  standbyCluster,
  standbySlot,
];

/** The findings that no check of its own makes: a side that can't be reached, a check that could not be made. */
export const OTHER_FINDINGS = ['connection', 'check-failed'] as const;
