/** A measurement that could not be made. Its message is fit for evidence: it names connections, never addresses. */
export class MeasurementFailed extends Error {
  override readonly name = 'MeasurementFailed';
}
