import { expect, it } from 'vitest';
import { approveSignal, resumeSignal, rollbackUpdate } from '../../workflows/messages.js';
import { rowsOf, statusOf, until } from '../support/migration.js';
import { newMigration, quick, WHO } from '../support/rolled-back-run.js';

const SUBSCRIBE = `CREATE SUBSCRIPTION orders_in CONNECTION 'dbname=nowhere' PUBLICATION orders
  WITH (connect = false, slot_name = NONE, enabled = false)`;

it(
  'what green has come to hold in the standby window keeps writes there until it is gone',
  { timeout: 240_000 },
  async () => {
    const migration = await newMigration({ traffic: { ...quick(), approval: { before: [] } } });
    const onGreen = (sql: string): Promise<unknown> => rowsOf(migration.green, sql);
    const handle = await migration.start();
    try {
      await until(handle, 'in its standby window', (s) => s.waiting?.for === 'standby');
      await onGreen('SELECT lo_create(4711)');
      const { rollback } = await until(handle, 'told', (s) => s.rollback.loses !== undefined);
      expect(rollback).toMatchObject({ safe: false, loses: 'the large objects of green' });
      await expect(handle.executeUpdate(rollbackUpdate, { args: [WHO] })).rejects.toThrow();

      // Whether or not the watch has seen it: the way back looks itself.
      await onGreen(SUBSCRIBE);
      await handle.cancel();
      const { waiting } = await until(handle, 'waiting', (s) => s.waiting?.for === 'confirmation');
      expect(waiting?.why).toMatch(/by subscriptions to other databases \(orders_in\); the large objects of green/);
      expect((await statusOf(handle)).writesOn).toBe('green');
      await onGreen('DROP SUBSCRIPTION orders_in');
      await onGreen('SELECT lo_unlink(4711)');
      await handle.result().catch(() => undefined);
      const { writesOn, rollingBack } = await statusOf(handle);
      expect(writesOn).toBe('blue');
      expect(rollingBack?.lost).toBeUndefined();
      expect(rollingBack?.notUndone).toEqual([]);
    } finally {
      await handle.terminate().catch(() => undefined);
    }
  },
);

it(
  'what blue has come to hold since the preflight keeps writes there until it is mended',
  { timeout: 240_000 },
  async () => {
    const migration = await newMigration({ traffic: { ...quick(), approval: { before: ['promote'] } } });
    const onBlue = (sql: string): Promise<unknown> => rowsOf(migration.blue, sql);
    const onGreen = (sql: string): Promise<unknown> => rowsOf(migration.green, sql);
    const handle = await migration.start();
    let request = '';
    const question = async (): Promise<string> => {
      const { waiting } = await until(handle, 'asked', (s) => (s.waiting?.request ?? request) !== request);
      request = waiting?.request ?? '';
      return waiting?.why ?? '';
    };
    const approve = (): Promise<void> => handle.signal(approveSignal, { gate: 'promote', request, ...WHO });
    try {
      expect(await question()).not.toMatch(/large object|sequence/);

      await onBlue('SELECT lo_create(4711)');
      // What a worker that was killed between the slot and the decision leaves.
      const stray = `verdigris_${migration.plan.name.replaceAll('-', '_')}_to_blue`;
      await onGreen(`SELECT pg_create_logical_replication_slot('${stray}', 'pgoutput')`);
      await approve();
      expect(await question()).toMatch(/blue has 1 large objects, which are not replicated/);
      expect(await onGreen(`SELECT FROM pg_replication_slots WHERE slot_name = '${stray}'`)).toEqual([]);
      await onBlue('SELECT lo_unlink(4711)');

      await onBlue('CREATE SEQUENCE invoice_numbers');
      await until(handle, 'held', (s) => (s.held ?? null) !== null);
      await handle.signal(resumeSignal, WHO);
      await until(handle, 'no longer held', (s) => (s.held ?? null) === null);
      await approve();
      expect(await question()).toMatch(/green has no sequence public\.invoice_numbers/);
      await onGreen('CREATE SEQUENCE invoice_numbers MAXVALUE 100');

      await onBlue(`SELECT setval('invoice_numbers', 5000)`);
      await approve();
      expect(await question()).toMatch(/"invoice_numbers" stands at 5000, which green's \(1 to 100\) can't take/);
      await onGreen('ALTER SEQUENCE invoice_numbers NO MAXVALUE');

      await approve();
      await until(handle, 'on green', (s) => s.writesOn === 'green');
      const [next] = await rowsOf(migration.green, `SELECT nextval('invoice_numbers')::int AS n`);
      expect(Number(next?.['n'])).toBeGreaterThan(5000);
      expect((await statusOf(handle)).outcome).toBe('running');
    } finally {
      await handle.terminate().catch(() => undefined);
    }
  },
);
