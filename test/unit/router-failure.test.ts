import pg from 'pg';
import { describe, expect, it } from 'vitest';
import { canConnectLater, isLinkFailure, wasNeverSent } from '../../src/router/failure.js';

function raised(message: string): Error {
  return Object.assign(new pg.DatabaseError(message, 1, 'error'), { code: 'P0001', severity: 'ERROR' });
}

describe("node-postgres' own words", () => {
  it('say that a statement was not sent, or that its outcome is unknown', () => {
    expect(wasNeverSent(new Error('Client was closed and is not queryable'))).toBe(true);
    expect(isLinkFailure(new Error('Query read timeout'))).toBe(true);
  });

  it('say nothing in an error that a function on the server raises', () => {
    expect(wasNeverSent(raised('report is not queryable'))).toBe(false);
    expect(isLinkFailure(raised('Query read timeout'))).toBe(false);
  });
});

describe('a connection that could not be opened', () => {
  it.each(['ENOENT', 'EAGAIN', 'ECONNREFUSED'])('is tried again, whatever the system says: %s', (code) => {
    expect(canConnectLater(Object.assign(new Error(`connect ${code}`), { code, syscall: 'connect' }))).toBe(true);
  });

  it('is not for a file that a password function does not find', () => {
    expect(canConnectLater(Object.assign(new Error('open'), { code: 'ENOENT', syscall: 'open' }))).toBe(false);
  });
});
