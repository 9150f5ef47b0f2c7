/*
 * ALTER DEFAULT PRIVILEGES of the user who makes schema verdigris hold for what is in it. Usual ones would let the
 * application move the route, set the fence, or put a trigger of its own on what our sessions write; others would keep it
 * from calling what it is there to call.
 */

/** The functions that applications call: by their routers, in `up`, and in triggers of the plan, which run as who writes. */
const FOR_EVERYBODY = [
  'router_heartbeat(text, text, bigint, bigint, jsonb, text)',
  'router_heartbeat(text, text, bigint, bigint, jsonb)',
  'caught_up(bigint, pg_lsn)',
  'get_ready()',
  'try_jsonb(text)',
];

/** Those that move the route and the fence. */
const FOR_THE_OWNER = [
  'set_green_read_percent(text, bigint, numeric)',
  'decide(text, bigint, text)',
  'open_fence(text, bigint)',
  'close_fence(text, bigint)',
];

const functions = (signatures: readonly string[]): string =>
  signatures.map((signature) => `verdigris.${signature}`).join(', ');

/**
 * Takes away from all but the owners what changes tables and sequences of schema verdigris, or puts objects into it.
 * What lets a role read stays: the doctor may ask as one that only reads. Changes nothing where nothing is to be taken.
 */
export const ONLY_OWNERS_WRITE = `
DO $do$
DECLARE
  statement text;
BEGIN
  FOR statement IN
    SELECT format('REVOKE %s ON %s verdigris.%I FROM %s CASCADE', string_agg(DISTINCT a.privilege_type, ', '),
                  CASE c.relkind WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END, c.relname,
                  CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END)
      FROM pg_class c CROSS JOIN LATERAL aclexplode(c.relacl) a
     WHERE c.relnamespace = 'verdigris'::regnamespace AND c.relkind IN ('r', 'S')
       AND a.grantee <> c.relowner AND a.privilege_type <> 'SELECT'
     GROUP BY c.relkind, c.relname, a.grantee
    UNION ALL
    SELECT DISTINCT format('REVOKE CREATE ON SCHEMA verdigris FROM %s CASCADE',
                           CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END)
      FROM pg_namespace n CROSS JOIN LATERAL aclexplode(n.nspacl) a
     WHERE n.nspname = 'verdigris' AND a.grantee <> n.nspowner AND a.privilege_type = 'CREATE'
  LOOP
    EXECUTE statement;
  END LOOP;
END $do$;`;

/** Who may call the functions of schema verdigris. */
export const WHO_MAY_CALL = `
GRANT EXECUTE ON FUNCTION ${functions(FOR_EVERYBODY)} TO PUBLIC;
DO $do$
DECLARE
  statement text;
BEGIN
  FOR statement IN
    SELECT DISTINCT format('REVOKE EXECUTE ON FUNCTION %s FROM %s CASCADE', p.oid::regprocedure,
                           CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END)
      FROM pg_proc p CROSS JOIN LATERAL aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a
     WHERE p.oid = ANY ('{${FOR_THE_OWNER.map((signature) => `"verdigris.${signature}"`).join(',')}}'::regprocedure[])
       AND a.grantee <> p.proowner
  LOOP
    EXECUTE statement;
  END LOOP;
END $do$;`;
