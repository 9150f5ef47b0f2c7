import { describe, expect, it } from 'vitest';
import { Saga } from '../../workflows/lib/saga.js';

const describeError = (error: unknown): string => (error instanceof Error ? error.message : String(error));

describe('the rollback saga', () => {
  it('undoes in reverse order and goes on after a failure, which it keeps', async () => {
    const done: string[] = [];
    const saga = new Saga();
    for (const name of ['first', 'second', 'third']) {
      saga.push({
        name,
        undo: () => {
          if (name === 'second') return Promise.reject(new Error('no'));
          done.push(name);
          return Promise.resolve();
        },
      });
    }
    const result = await saga.compensate(describeError, () => undefined);
    expect(done).toEqual(['third', 'first']);
    expect(result).toEqual({ undone: ['third', 'first'], notUndone: ['second: no'] });
    expect(saga.isEmpty).toBe(true);
  });

  it('says what was done where that is not what a name says, and only then', async () => {
    const saga = new Saga();
    const told = (): string => 'green is kept';
    saga.push({ name: 'drop green', told, undo: () => Promise.reject(new Error('no')) });
    saga.push({ name: 'drop green', told, undo: () => Promise.resolve() });
    const result = await saga.compensate(describeError, () => undefined);
    expect(result).toEqual({ undone: ['green is kept'], notUndone: ['drop green: no'] });
  });

  it('stops below a critical failure: writes that are not back still need what is there', async () => {
    const done: string[] = [];
    const saga = new Saga();
    saga.push({ name: 'drop replication', undo: () => Promise.resolve(void done.push('replication')) });
    saga.push({
      name: 'writes back',
      critical: () => 'writes are not back',
      undo: () => Promise.reject(new Error('blue is gone')),
    });
    const result = await saga.compensate(describeError, () => undefined);
    expect(done).toEqual([]);
    expect(result.undone).toEqual([]);
    expect(result.notUndone).toEqual([
      'writes back: blue is gone',
      'drop replication: left as it is, since writes are not back',
    ]);
  });
});
