import { readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { startPostgres } from '../../src/embedded/postgres-server.js';

/* Starts a server, says where, and lives until it is killed: for guardian.test.ts. */

const server = await startPostgres({ version: 18, settings: { fsync: 'off' } });
const [pid] = readFileSync(join(server.dataDirectory, 'postmaster.pid'), 'utf8').split('\n');
process.stdout.write(`${JSON.stringify({ pid: Number(pid), folder: dirname(server.dataDirectory) })}\n`);
setInterval(() => undefined, 60_000);
