import type { EndpointWindow, GateWindow } from './window.js';

/** The endpoints of which green has answered something: those that a gate asks one by one. */
export function endpointsOnGreen({ endpoints }: GateWindow): readonly (readonly [string, EndpointWindow])[] {
  return Object.entries(endpoints).filter(([, { green }]) => green.requests > 0);
}

/** The window as it would be if the endpoint were all that there is. */
export function windowOf(window: GateWindow, endpoint: string): GateWindow {
  const of = window.endpoints[endpoint];
  const side = (name: keyof EndpointWindow): EndpointWindow[typeof name] =>
    of?.[name] ?? { requests: 0, errors: 0, latency: window[name].latency.map(() => 0) };
  return { ...window, blue: side('blue'), green: side('green'), blueBefore: side('blueBefore') };
}
