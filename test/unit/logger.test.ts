import { describe, expect, it } from 'vitest';
import { levelOf } from '../../src/worker/logger.js';

describe('VERDIGRIS_LOG_LEVEL', () => {
  it('is info unless it says something, and is written as one likes', () => {
    expect(levelOf({})).toBe('info');
    expect(levelOf({ VERDIGRIS_LOG_LEVEL: '' })).toBe('info');
    expect(levelOf({ VERDIGRIS_LOG_LEVEL: 'DEBUG' })).toBe('debug');
  });

  it('says what can be written when it is something else', () => {
    expect(() => levelOf({ VERDIGRIS_LOG_LEVEL: 'warning' })).toThrow(
      'VERDIGRIS_LOG_LEVEL is "warning": write one of trace, debug, info, warn, error',
    );
  });
});
