import type { Databases } from '../../src/postgres/session.js';
import { AuditJournal } from './audit-journal.js';
import { AuditedWriters } from './audited-writers.js';

/* The audited writers in a process of their own, which can be killed or frozen; its journal is a file. */

export interface ApplicationOptions {
  readonly databases: Databases;
  readonly migration: string;
  readonly file: string;
}

const { databases, migration, file } = JSON.parse(process.argv[2] ?? '{}') as ApplicationOptions;
process.on('disconnect', () => process.exit());
await AuditedWriters.start(databases, migration, { journal: new AuditJournal(file), isPartitioned: true });
process.send?.('ready');
