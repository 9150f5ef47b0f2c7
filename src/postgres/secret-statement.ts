import { randomBytes } from 'node:crypto';
import { ident } from './identifier.js';
import type { Session } from './session.js';

/*
 * CREATE and ALTER SUBSCRIPTION take no bound values, so the password of the other server is in their text. PostgreSQL shows
 * the text of a statement in pg_stat_activity, counts it in pg_stat_statements, and writes it into its log: as STATEMENT of
 * an error, as CONTEXT of any message where SQL was run by PL/pgSQL. Only a superuser, as a rule, may switch that off. But of
 * a function in SQL only the name is told, so the statement is the body of one, which no other session ever sees.
 */

/** Values of bound parameters, and what functions run, are kept out of log and statistics, as far as the role may. */
const KEEP_VALUES_OUT = `
  SELECT set_config(name, CASE vartype WHEN 'bool' THEN 'off' ELSE '0' END, true)
    FROM pg_settings
   WHERE name IN ('log_parameter_max_length', 'log_parameter_max_length_on_error',
                  'auto_explain.log_parameter_max_length', 'pg_stat_statements.track_utility', 'pgaudit.log_parameter',
                  'pg_stat_monitor.pgsm_track_utility', 'pg_qs.track_utility')
     AND (context = 'user' OR context = 'superuser' AND has_parameter_privilege(name, 'SET'))`;

/**
 * Runs a statement that has a password in it, in the transaction that is open. It needs the right to make schemas, as a
 * subscription does. Where the server writes down bound values all the same, or what is run by functions, it has the
 * password then: preflight check `logged-password`.
 *
 * @throws the server's error, as the statement itself would
 */
export async function runSecretStatement(session: Session, statement: string): Promise<void> {
  const schema = ident(`verdigris_secret_${randomBytes(6).toString('hex')}`);
  await session.query(KEEP_VALUES_OUT);
  await session.query(`SELECT set_config('verdigris.statement', $1, true)`, [statement]);
  await session.query(`
    CREATE SCHEMA ${schema};
    DO $do$ BEGIN
      EXECUTE format('CREATE FUNCTION ${schema}.run() RETURNS void LANGUAGE sql AS %L', current_setting('verdigris.statement'));
    EXCEPTION WHEN query_canceled OR others THEN
      -- Its CONTEXT has the statement.
      RAISE EXCEPTION USING ERRCODE = SQLSTATE, MESSAGE = SQLERRM;
    END $do$;
    SELECT ${schema}.run();
    DROP SCHEMA ${schema} CASCADE`);
}
