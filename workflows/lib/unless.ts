import { ApplicationFailure, condition } from '@temporalio/workflow';
import { beside } from './beside.js';

/** Does `work` unless something is so, or becomes so meanwhile: that cancels it. @returns undefined then, when it has really stopped */
export async function unless<T>(
  isSo: () => boolean,
  work: () => Promise<T>,
): Promise<{ readonly done: T } | undefined> {
  const so = ApplicationFailure.nonRetryable('it is not to go on');
  const untilSo = async (): Promise<never> => {
    await condition(isSo);
    throw so;
  };
  const done: { readonly done: T }[] = [];
  try {
    await beside(untilSo, async () => void done.push({ done: await work() }));
  } catch (error) {
    if (error !== so) throw error;
  }
  return done[0];
}
