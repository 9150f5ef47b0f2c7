/**
 * So often at least a standby window in which all is well tells its run the lag, and what has been compared, ms. Each telling
 * is some events of the history; what is not well is told at once.
 */
export const GOOD_NEWS_EVERY_MS = 12 * 3_600_000;
