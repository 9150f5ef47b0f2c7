import { MockActivityEnvironment } from '@temporalio/testing';
import { expect, it } from 'vitest';
import { verifyActivities, type VerificationResult } from '../../activities/verify.js';
import { StreamPair } from './stream-pair.js';

const DDL = `
  CREATE TABLE short (id int PRIMARY KEY);
  INSERT INTO short SELECT n FROM generate_series(1, 25) n;
  CREATE TABLE long (id text PRIMARY KEY);
  INSERT INTO long SELECT n || repeat('x', 5000) FROM generate_series(1, 25) n;`;

it('more than ten differing rows are in the result, which the history keeps, unless their keys are long', async () => {
  const pair = await StreamPair.start({ blue: 'pg15', green: 'pg18' }, DDL);
  try {
    await pair.green.query('TRUNCATE public.short, public.long');
    await pair.publish(['short', 'long']);
    await pair.replicate();
    const { verify } = verifyActivities(pair.dependencies);
    const differing = async (pass: string, sql: string): Promise<readonly string[]> => {
      await pair.green.query(`SET session_replication_role = replica; ${sql}; RESET session_replication_role`);
      const found = (await new MockActivityEnvironment().run(() =>
        verify(pair.ref, 'blue', 'all', pass),
      )) as VerificationResult;
      expect(found.differingRows).toBe(25);
      return found.examples;
    };
    const short = await differing('short', 'DELETE FROM public.short');
    const expected = Array.from({ length: 25 }, (_, i) => `public.short "id" = ${i + 1}: missing`);
    expect([...short].sort()).toEqual(expected.sort());
    const long = await differing(
      'long',
      'INSERT INTO public.short SELECT n FROM generate_series(1, 25) n; DELETE FROM public.long',
    );
    expect(long).toHaveLength(10);
  } finally {
    await pair.stop();
  }
});
