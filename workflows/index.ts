export { blueGreenMigration } from './blue-green-migration.js';
