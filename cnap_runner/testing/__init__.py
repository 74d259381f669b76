"""For our tests and our users': a scripted model server, fakes named by their failure, builders."""
