import { ActivityFailure, CancelledFailure, RetryState } from '@temporalio/common';
import { describe, expect, it } from 'vitest';
import { cancelledWith } from '../../workflows/lib/failure.js';

describe('the last word of an activity that was cancelled', () => {
  it.each([
    ['its own', [{ resumes: 'pass 7, 2' }], { resumes: 'pass 7, 2' }],
    ["Temporal's, where it waited for its next attempt", ['ACTIVITY_ID_NOT_STARTED'], undefined],
    ['none', [], undefined],
  ])('is %s', (_whose, details, told) => {
    const cause = new CancelledFailure('cancelled', details);
    const error = new ActivityFailure('cancelled', 'verify', '1', RetryState.CANCEL_REQUESTED, 'worker', cause);
    expect(cancelledWith(error)).toEqual(told);
  });
});
