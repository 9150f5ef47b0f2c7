import { expect, it } from 'vitest';
import { readPreDataStatements } from '../../src/postgres/schema-copy/schema-statements.js';

it('the comment that every new database has on public is not run on green, and any other one is', async () => {
  const dump = (comment: string): string =>
    `COMMENT ON SCHEMA "public" IS '${comment}';\nCOMMENT ON SCHEMA "app" IS 'standard public schema';\n`;
  const texts = async (comment: string): Promise<string> => JSON.stringify(await readPreDataStatements(dump(comment)));
  expect(await texts('standard public schema')).not.toContain('public\\" IS');
  expect(await texts('standard public schema')).toContain('app\\" IS');
  expect(await texts('of the shop')).toContain('public\\" IS');
});
