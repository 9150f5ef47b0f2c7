import { describe, expect, it } from 'vitest';
import type { ShownDatabase } from '../../src/pgbouncer/console.js';
import { together, tooLittleRoom, wantedBy, type Limits, type Wanted } from '../../src/pgbouncer/room.js';

const SETUP = { databases: ['orders', 'jobs'], aliases: { blue: 'orders_blue', green: 'orders_green' } };
const NO_LIMIT = { maxUserConnections: 0, hasReserve: false };

function entry(name: string, more: Partial<ShownDatabase> = {}): ShownDatabase {
  return {
    ...{ name, host: 'b', port: 5432, database: 'shop', forcedUser: null, paused: false },
    ...{ poolSize: 20, reservePool: 5, maxConnections: 0, ...more },
  };
}

function pool(database: string, user: string, servers = 0): Parameters<typeof wantedBy>[2][number] {
  return { database, user, servers, serversInLogin: 0 };
}

describe('what PgBouncers may open on green', () => {
  const both = [entry('orders'), entry('jobs', { poolSize: 10 }), entry('orders_green')];
  const pools = [pool('orders', 'web', 7), pool('orders', 'mail', 1), pool('jobs', 'web'), pool('orders_blue', 'v', 1)];

  it('is the size of each pool, of the entries that are moved', () => {
    const { byUser, ...all } = wantedBy(SETUP, both, pools, NO_LIMIT);
    expect(all).toEqual({ mayOpen: 50, open: 8 });
    expect(byUser).toEqual(
      new Map([
        ['web', { mayOpen: 30, open: 7 }],
        ['mail', { mayOpen: 20, open: 1 }],
      ]),
    );
  });

  it('with the reserve, where it is used; and no more than an entry and a user may have', () => {
    expect(wantedBy(SETUP, both, pools, { ...NO_LIMIT, hasReserve: true }).mayOpen).toBe(65);
    expect(wantedBy(SETUP, both, pools, { ...NO_LIMIT, maxUserConnections: 12 }).mayOpen).toBe(24);
    const few = [entry('orders', { maxConnections: 15 }), entry('jobs', { maxConnections: 4 })];
    const wanted = wantedBy(SETUP, few, pools, NO_LIMIT);
    expect(wanted.mayOpen).toBe(19);
    expect(wanted.byUser.get('web')?.mayOpen).toBe(19);
  });

  it('comes as the user= of green, and as themselves where they have come so', () => {
    const forced = [entry('orders', { forcedUser: 'one' }), entry('orders_green', { forcedUser: 'two' })];
    const wanted = wantedBy(SETUP, forced, [pool('orders', 'one', 3), pool('orders', 'web', 2)], NO_LIMIT);
    expect([...wanted.byUser]).toEqual([
      ['two', { mayOpen: 20, open: 3 }],
      ['web', { mayOpen: 20, open: 2 }],
    ]);
    const none = wantedBy(SETUP, [entry('orders'), entry('orders_green')], [], NO_LIMIT);
    expect(none).toEqual({ mayOpen: 0, open: 0, byUser: new Map() });
  });

  it('is that of all PgBouncers together', () => {
    const one = wantedBy(SETUP, both, pools, NO_LIMIT);
    expect(together([one, one])).toMatchObject({ mayOpen: 100, open: 16 });
    expect(together([one, one]).byUser.get('mail')).toEqual({ mayOpen: 40, open: 2 });
  });
});

describe('room on green', () => {
  const wanted: Wanted = { mayOpen: 100, open: 30, byUser: new Map([['web', { mayOpen: 100, open: 30 }]]) };
  const side = (maxConnections: number, role = Infinity, database = Infinity): Limits => ({
    ...{ database: { name: 'shop', limit: database }, server: maxConnections - 3, maxConnections },
    roles: new Map([['web', { limit: role, isSuperuser: false }]]),
  });
  const found = (blue: Limits, green: Limits): string[] =>
    tooLittleRoom({ blue, green }, wanted).map(({ object, message, remedy }) => `${object} | ${message} | ${remedy}`);

  it('is enough where green allows what may come, or as much as blue does', () => {
    expect(found(side(200), side(103))).toEqual([]);
    expect(found(side(60), side(60))).toEqual([]);
    expect(found(side(500, 50, 50), side(500, 50, 50))).toEqual([]);
  });

  it('is too little where it allows less than blue, by any of its limits', () => {
    const [server, ...none] = found(side(200), side(23));
    expect(none).toEqual([]);
    expect(server).toContain('green allows 20 connections at once, and the PgBouncers may open 100 there');
    expect(server).toContain('(30 are open now; blue allows 197)');
    expect(server).toContain('Set max_connections of green to 103 or more');
    expect(found(side(200, 50), side(200, 20))[0]).toContain('On green: ALTER ROLE "web" CONNECTION LIMIT 50');
    expect(found(side(200), side(200, Infinity, 20))[0]).toContain(
      'On green: ALTER DATABASE "shop" CONNECTION LIMIT 100',
    );
  });

  it('is too little where it allows less than there are now, whatever blue says', () => {
    expect(found(side(200, 20), side(200, 20))[0]).toContain('ALTER ROLE "web" CONNECTION LIMIT 30');
  });
});
