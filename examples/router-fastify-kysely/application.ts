import Fastify, { type FastifyInstance, type FastifyRequest } from 'fastify';
import { sql } from 'kysely';
import { RouterError, signedTokens, type Router } from 'verdigris/router';
import { statusOf } from './error-status.js';
import { RoutedKysely } from './routed-kysely.js';

interface Shop {
  item: { id: number; value: number };
}

const TOKEN_HEADER = 'x-write-token';

interface ItemRequest {
  Params: { id: string };
}

/** Stands for the user whom your authentication has found. */
function userOf(request: FastifyRequest): string | undefined {
  const user = request.headers['x-user'];
  return typeof user === 'string' ? user : undefined;
}

/** A small web service whose database can move while it runs. */
export function application(router: Router, tokenSecret: string): FastifyInstance {
  const app = Fastify();
  const shop = new RoutedKysely<Shop>(router);
  const tokens = signedTokens(tokenSecret);

  // A user's token travels with requests and answers, so that every process of the service knows the last write.
  app.addHook('onRequest', async (request) => {
    const user = userOf(request);
    if (user !== undefined) tokens.decode(router, user, request.headers[TOKEN_HEADER]);
  });
  app.addHook('onSend', async (request, reply) => {
    const user = userOf(request);
    const token = user === undefined ? undefined : tokens.encode(router, user);
    if (token !== undefined) void reply.header(TOKEN_HEADER, token);
  });

  app.get<ItemRequest>('/items/:id', async (request, reply) => {
    const db = shop.forUser(userOf(request), 'GET /items/:id');
    const item = await db.selectFrom('item').selectAll().where('id', '=', Number(request.params.id)).executeTakeFirst();
    return item ?? reply.code(404).send({ error: 'no such item' });
  });

  app.post<ItemRequest>('/items/:id/bump', async (request) =>
    shop.transaction(userOf(request), 'POST /items/:id/bump', async (db) => {
      const id = Number(request.params.id);
      await db
        .insertInto('item')
        .values({ id, value: 0 })
        .onConflict((conflict) => conflict.column('id').doNothing())
        .execute();
      return db
        .updateTable('item')
        .set({ value: sql`value + 1` })
        .where('id', '=', id)
        .returningAll()
        .executeTakeFirstOrThrow();
    }),
  );

  app.get('/metrics', async (_request, reply) => {
    void reply.type(router.metrics.contentType);
    return router.metrics.metrics();
  });

  app.setErrorHandler((error, _request, reply) => {
    if (!(error instanceof RouterError)) return reply.code(500).send({ error: 'internal' });
    const status = statusOf(error);
    if (status === 503) void reply.header('retry-after', '1');
    return reply.code(status).send({ error: error.code });
  });

  app.addHook('onClose', () => router.close());
  return app;
}
