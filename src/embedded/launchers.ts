import { describeProcess } from './process-state.js';

/**
 * The processes between us and whoever typed the command: `npm run`, its shell, tsx. When one of them is killed, npm
 * tells nobody; we have to see it ourselves.
 */
export function launchers(): number[] {
  const found: number[] = [];
  for (let pid = process.ppid; found.length < 10;) {
    const { parent, command } = describeProcess(pid);
    if (parent === undefined || !isLauncher(command)) break;
    found.push(pid);
    pid = parent;
  }
  return found;
}

function isLauncher(command: string): boolean {
  return /^(\S*\/)?(ba|da|z)?sh -c /.test(command) || /(^|[\s/])(npm|npx|tsx)(\s|$)/.test(command);
}
