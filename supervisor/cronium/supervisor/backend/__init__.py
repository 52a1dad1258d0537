"""The backend's HTTP side: what is said (`contract`), how (`http`), and in which threads (`lanes`)."""
