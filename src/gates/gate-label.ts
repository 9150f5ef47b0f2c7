import type { Gate } from '../plan/schema.js';

/** What a gate is called in evidence and in the Web UI: `errorRate`, `errorRate /checkout`, `prometheus: checkout`. */
export function gateLabel(gate: Gate): string {
  if (gate.metric === 'prometheus') return `prometheus: ${gate.name}`;
  if (gate.metric === 'errorRate' && gate.endpoint !== undefined) return `errorRate ${gate.endpoint}`;
  return gate.metric;
}
