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

it("a grant on an object of the server or of an extension may be refused, and none on an object of one's own", async () => {
  const system = new Set(
    [
      ['pg_catalog', 'pg_backup_start'],
      ['public', 'spatial_ref_sys'],
      [null, 'cron'],
    ].map((key) => JSON.stringify(key)),
  );
  const grants = [
    'GRANT ALL ON FUNCTION "pg_catalog"."pg_backup_start"("label" "text", "fast" boolean) TO "barman"',
    'REVOKE ALL ON TABLE "public"."spatial_ref_sys" FROM PUBLIC',
    'GRANT USAGE ON SCHEMA "cron" TO "app"',
    'GRANT ALL ON FUNCTION "public"."pg_backup_start"("label" "text") TO "app"',
    'GRANT SELECT ON TABLE "public"."orders" TO "app"',
    'GRANT USAGE ON TYPE "public"."mood" TO "app"',
  ];
  const kept = await readPreDataStatements(`${grants.join(';\n')};\n`, system);
  expect(kept.map((text, i) => text === grants[i])).toEqual([false, false, false, true, true, true]);
  expect(kept[0]).toContain('insufficient_privilege');
});
