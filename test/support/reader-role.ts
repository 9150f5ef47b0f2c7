import { randomBytes } from 'node:crypto';
import type pg from 'pg';
import { inject } from 'vitest';
import { ident } from '../../src/postgres/identifier.js';
import { withClient } from './postgres.js';

/** How an application logs in that does not know on which side it is: the same role and password on both servers. */
export interface ReaderRole {
  readonly config: pg.ClientConfig;
  drop(): Promise<void>;
}

export async function createReaderRole(): Promise<ReaderRole> {
  const user = `reader_${randomBytes(4).toString('hex')}`;
  const config = { host: '127.0.0.1', user, password: 'read', database: 'postgres' };
  const onBoth = async (sql: string): Promise<void> => {
    for (const { port, password } of [inject('pg15'), inject('pg18')]) {
      const maintenance = { host: '127.0.0.1', port, user: 'postgres', password, database: 'postgres' };
      await withClient(maintenance, (client) => client.query(sql));
    }
  };
  await onBoth(`CREATE ROLE ${ident(user)} LOGIN PASSWORD 'read'`);
  return { config, drop: () => onBoth(`DROP ROLE IF EXISTS ${ident(user)}`) };
}
