import { simulateRun } from './simulate.js';
const [green, rate, runs] = [process.argv[2] as 'healthy', Number(process.argv[3]), Number(process.argv[4])];
const t: Record<string, Record<string, number>> = {};
const secs: number[] = [];
const start = Date.now();
for (let i = 0; i < runs; i++) for (const r of simulateRun(green, rate, 1_000_003 + i)) { const x = (t[r.rule] ??= {}); x[r.end] = (x[r.end] ?? 0) + 1; if (r.rule === 'Verdigris') { secs.push(r.seconds); if (green === 'healthy' && r.end === 'rolled back') console.log(i, JSON.stringify(r), (globalThis as {last?: string}).last); } }
secs.sort((a, b) => a - b);
console.log(green, rate, t, 'median', secs[secs.length >> 1], 'p95', secs[Math.floor(secs.length * .95)], 'max', secs.at(-1), (Date.now() - start) / runs, 'ms/run');
