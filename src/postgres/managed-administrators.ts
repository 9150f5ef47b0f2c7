/** Roles of managed services that may do there what takes a superuser elsewhere, as far as the service allows it. */
export const MANAGED_ADMINISTRATORS = ['rds_superuser', 'cloudsqlsuperuser', 'azure_pg_admin', 'alloydbsuperuser'];
