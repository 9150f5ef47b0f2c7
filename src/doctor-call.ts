/** The command that asks the two databases, or acts on them, without the run: with the plan's names of their connections. */
export function doctorCall(connections: { readonly blue: string; readonly green: string }, flags: string): string {
  return `verdigris doctor --blue ${connections.blue} --green ${connections.green} ${flags}`;
}

/** What somebody can do about a blue that takes writes beside green. @param command of the doctor, with --close */
export function closesBlue(command: string): string {
  return `lead whoever writes there to green; this closes it: ${command}; without schema verdigris it can only be stopped. What was written there since is not on green`;
}
