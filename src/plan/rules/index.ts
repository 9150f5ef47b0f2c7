import type { CatalogRule, Rule } from '../rule.js';
import {
  approvalBeforeNothing,
  approvalShorterThanWindows,
  approverUnseen,
  quorumOfAnybody,
  quorumOutOfReach,
} from './approval.js';
import { columnExists, unknownColumn, unknownTable } from './catalog-names.js';
import {
  downMayNotFit,
  generatedColumn,
  narrowing,
  partitionKey,
  tableWithoutKey,
  withoutEffect,
} from './catalog-tables.js';
import {
  circularUp,
  defaultAndUp,
  disconnectedColumn,
  downTarget,
  narrowingInPlan,
  upReadsItself,
  usedBeforeAdded,
} from './computed.js';
import { sameConnection, unknownConnection } from './connections.js';
import { directTypeChange, dropOrRename, droppedUniqueIndex, enumValueOnGreen, loosenedConstraint } from './expand.js';
import {
  countsOfFixedRange,
  countsRecordedOverRange,
  everyGateDryRun,
  gatesOfOneName,
  lagNotWatched,
  limitsThatNothingKeeps,
  rangeHidesTheEnd,
  stageWithoutGate,
} from './gates.js';
import { haproxyGates, haproxyPercent, haproxyServers, haproxyTwice } from './haproxy.js';
import { invalidDown, invalidExpression, invalidIndex, notOneValue } from './expressions.js';
import { keyOnPartitionedTable, primaryKeyNullable, secondPrimaryKey, secondPrimaryKeyInPlan } from './keys.js';
import { functionMadeTooLate, madeTooLate } from './made-too-late.js';
import { duplicateName, invalidTableName, reservedSchema, tableNotMoved } from './names.js';
import { notNullWithoutValue, upMayBeNull } from './not-null.js';
import { pgbouncerEntries, pgbouncerStages, pgbouncerTwice } from './pgbouncer.js';
import {
  concurrentlyNotAlone,
  constraintWithoutNotValid,
  indexWithoutConcurrently,
  rewritesTable,
  squawkFinding,
  squawkMissing,
} from './raw-locks.js';
import {
  changesRows,
  opaqueSql,
  rawAddColumn,
  serverWide,
  sqlSyntax,
  touchesReplication,
  transactionControl,
  unqualifiedName,
} from './raw-statements.js';
import { planTooLarge, shortStandby, timeTooShort } from './times.js';
import { gatesWithoutStages, stagesBelow100, stagesNotGrowing, unknownApprovalStage } from './traffic.js';
import { timeDefault, volatileDefault, volatileExpression, volatileUp } from './volatile.js';
import { migrateWindowOfCopy } from './windows.js';

/** The rules that look at a plan alone. */
export const RULES: readonly Rule[] = [
  sameConnection,
  // Names and form.
  invalidTableName,
  tableNotMoved,
  reservedSchema,
  duplicateName,
  invalidExpression,
  invalidDown,
  invalidIndex,
  secondPrimaryKeyInPlan,
  notOneValue,
  // Old and new columns.
  volatileUp,
  volatileExpression,
  volatileDefault,
  timeDefault,
  defaultAndUp,
  upReadsItself,
  circularUp,
  disconnectedColumn,
  downTarget,
  usedBeforeAdded,
  madeTooLate,
  functionMadeTooLate,
  notNullWithoutValue,
  upMayBeNull,
  narrowingInPlan,
  // Expand, don't contract.
  directTypeChange,
  dropOrRename,
  loosenedConstraint,
  enumValueOnGreen,
  // Raw SQL.
  sqlSyntax,
  transactionControl,
  serverWide,
  touchesReplication,
  changesRows,
  unqualifiedName,
  opaqueSql,
  rawAddColumn,
  indexWithoutConcurrently,
  constraintWithoutNotValid,
  rewritesTable,
  concurrentlyNotAlone,
  squawkFinding,
  squawkMissing,
  // Traffic.
  stagesNotGrowing,
  stagesBelow100,
  everyGateDryRun,
  stageWithoutGate,
  lagNotWatched,
  gatesOfOneName,
  limitsThatNothingKeeps,
  countsOfFixedRange,
  countsRecordedOverRange,
  rangeHidesTheEnd,
  gatesWithoutStages,
  unknownApprovalStage,
  quorumOutOfReach,
  quorumOfAnybody,
  approverUnseen,
  approvalBeforeNothing,
  approvalShorterThanWindows,
  pgbouncerStages,
  pgbouncerEntries,
  pgbouncerTwice,
  haproxyPercent,
  haproxyServers,
  haproxyTwice,
  haproxyGates,
  // Times, and the room of the history.
  migrateWindowOfCopy,
  timeTooShort,
  shortStandby,
  planTooLarge,
];

/** The rules that compare a plan with blue's tables and the worker's connections. */
export const CATALOG_RULES: readonly CatalogRule[] = [
  unknownConnection,
  unknownTable,
  unknownColumn,
  columnExists,
  tableWithoutKey,
  narrowing,
  droppedUniqueIndex,
  downMayNotFit,
  withoutEffect,
  generatedColumn,
  partitionKey,
  secondPrimaryKey,
  keyOnPartitionedTable,
  primaryKeyNullable,
];
