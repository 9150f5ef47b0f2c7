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
  const kept = await readPreDataStatements(`${grants.join(';\n')};\n`, { system });
  expect(kept.map((text, i) => text === grants[i])).toEqual([false, false, false, true, true, true]);
  expect(kept[0]).toContain('insufficient_privilege');
});

it('what goes with an extension that stays on blue is not run on green, and what is beside it is', async () => {
  const leftOut = { extensions: ['vacuum'], schemas: ['vacuum_mgmt'] };
  const gone = [
    'CREATE SCHEMA "vacuum_mgmt"',
    'ALTER SCHEMA "vacuum_mgmt" OWNER TO "cloudsqladmin"',
    'CREATE EXTENSION IF NOT EXISTS "vacuum" WITH SCHEMA "vacuum_mgmt"',
    `COMMENT ON SCHEMA "vacuum_mgmt" IS 'x'`,
    'GRANT USAGE ON SCHEMA "vacuum_mgmt" TO "app"',
    'REVOKE ALL ON FUNCTION "vacuum_mgmt"."f"() FROM PUBLIC',
    'GRANT ALL ON TYPE "vacuum_mgmt"."t" TO "app"',
  ];
  const kept = [
    'ALTER SCHEMA "app" OWNER TO "cloudsqladmin"',
    'CREATE EXTENSION IF NOT EXISTS "citext" WITH SCHEMA "public"',
    'GRANT USAGE ON SCHEMA "app" TO "app"',
  ];
  expect(await readPreDataStatements(`${[...gone, ...kept].join(';\n')};\n`, { leftOut })).toEqual(kept);
});

it('the schema public is given to no superuser of blue where green keeps its own owner', async () => {
  const dump = 'ALTER SCHEMA "public" OWNER TO "rdsadmin";\nALTER SCHEMA "app" OWNER TO "rdsadmin";\n';
  expect(await readPreDataStatements(dump, { superuserOfPublic: 'rdsadmin' })).toHaveLength(1);
  for (const superuserOfPublic of ['postgres', null])
    expect(await readPreDataStatements(dump, { superuserOfPublic })).toHaveLength(2);
});
