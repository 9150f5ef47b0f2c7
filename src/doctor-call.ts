/** The command that asks the two databases, or acts on them, without the run: with the plan's names of their connections. */
export function doctorCall(connections: { readonly blue: string; readonly green: string }, flags: string): string {
  return `verdigris doctor --blue ${connections.blue} --green ${connections.green} ${flags}`;
}
