import {
  Kysely,
  PostgresAdapter,
  PostgresIntrospector,
  PostgresQueryCompiler,
  SelectQueryNode,
  type CompiledQuery,
  type DatabaseConnection,
  type Dialect,
  type Driver,
  type QueryResult,
} from 'kysely';
import type { Router } from 'verdigris/router';

/** What runs one statement: the router for a user, or the router's transaction. */
type Run = (query: CompiledQuery) => Promise<{ rows: unknown[]; rowCount: number | null }>;

/** Kysely over the router. */
export class RoutedKysely<DB> {
  readonly #router: Router;

  constructor(router: Router) {
    this.#router = router;
  }

  /** For single statements of a user: plain SELECTs are routed as reads, everything else goes where writes are. */
  forUser(user: string | undefined, endpoint: string): Kysely<DB> {
    return kyselyOver((query) => {
      const statement = { text: query.sql, values: [...query.parameters] };
      const request = isPlainSelect(query) ? 'read' : 'write';
      return this.#router[request](user, statement, undefined, { endpoint });
    });
  }

  /** The function may run twice, as the router's does: it must change nothing but the database. */
  transaction<T>(user: string | undefined, endpoint: string, work: (db: Kysely<DB>) => Promise<T>): Promise<T> {
    return this.#router.transaction(user, { endpoint }, (transaction) =>
      work(kyselyOver((query) => transaction.query(query.sql, [...query.parameters]))),
    );
  }
}

/**
 * A SELECT that locks rows, or has a WITH that may write, is none. Nor is one of no table, which is there to call a function.
 * What a function does in a SELECT of a table can't be seen here: one that writes, notifies or locks belongs into transaction().
 */
function isPlainSelect({ query }: CompiledQuery): boolean {
  if (!SelectQueryNode.is(query) || query.from === undefined) return false;
  return query.with === undefined && query.endModifiers === undefined;
}

function kyselyOver<DB>(run: Run): Kysely<DB> {
  const dialect: Dialect = {
    createAdapter: () => new PostgresAdapter(),
    createDriver: () => new RouterDriver(run),
    createIntrospector: (db) => new PostgresIntrospector(db),
    createQueryCompiler: () => new PostgresQueryCompiler(),
  };
  return new Kysely<DB>({ dialect });
}

class RouterDriver implements Driver {
  readonly #connection: DatabaseConnection;

  constructor(run: Run) {
    this.#connection = {
      executeQuery: async <R>(query: CompiledQuery): Promise<QueryResult<R>> => {
        const { rows, rowCount } = await run(query);
        return { rows: rows as R[], numAffectedRows: BigInt(rowCount ?? 0) };
      },
      streamQuery: () => {
        throw new Error('rows are not streamed through the router: read them in pages');
      },
    };
  }

  async init(): Promise<void> {}

  acquireConnection(): Promise<DatabaseConnection> {
    return Promise.resolve(this.#connection);
  }

  /** Kysely's own transactions can't be run again as a whole. */
  beginTransaction(): Promise<void> {
    return Promise.reject(new Error('use RoutedKysely.transaction()'));
  }

  commitTransaction(): Promise<void> {
    return this.beginTransaction();
  }

  rollbackTransaction(): Promise<void> {
    return this.beginTransaction();
  }

  async releaseConnection(): Promise<void> {}

  async destroy(): Promise<void> {}
}
